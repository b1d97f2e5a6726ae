"""Analytical cost model: predicted latency and memory of an ONNX graph on a device.

`workload.count_work` runs a graph once under onnxruntime's profiler and counts the work of every
node (multiply-adds, bytes). `model` turns these counts and a device file into seconds with a band
(`latency_band`, `ratio_band`), predicts peak memory (`memory_band`), and fits the constants of a
runtime to measured times (`fit_constants`).

May import `core` only; uses numpy, onnxruntime and scipy, never torch.
"""
