"""Latency, memory and size of ONNX artefacts on a device, and the claims that follow from them.

A figure is obtained in one of three ways, and every row says which one:

- measured (`measured`): the artefact ran on the device itself, on this host or over SSH;
- emulated (`emulated`): it ran here under QEMU with the device's instruction set. Outputs and
  memory are real, times mean nothing and are never reported;
- predicted (`predicted`): nothing ran on the device; the cost model gives bands, not numbers.

`stage.profile` is the function behind `edgedistil profile`. It finds the files (`artefacts`), makes
their inputs (`workload`), runs them, and turns replies into rows (`rows`, `latency`, `layers`) and
verdicts (`claims`). `requirements` implements `--require`, `memory_limit` `--memory-limit`, `tune`
`--tune`, and `calibrate` `--calibrate`. `devices` is behind `edgedistil devices`, with the
benchmarks of `device_probe`.

May import `core`, `runtime`, `costmodel` and `parity`; uses numpy, onnx and onnxruntime, never
torch: a board can be profiled from a machine without the training packages.
"""
