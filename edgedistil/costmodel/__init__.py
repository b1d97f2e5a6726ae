"""Analytical cost model: predicted latency and memory of an ONNX graph on a device.

`workload` counts the work of every executed node (multiply-adds, bytes). `model` turns these counts
and a device file into seconds with a band (`latency_band`, `ratio_band`), with `constants` of a
runtime that `fit` fits to measured times. `memory` predicts the peak (`memory_band`).

May import `core` only; uses numpy and scipy, never torch.
"""
