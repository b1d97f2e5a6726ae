"""Parity checks: does an ONNX artefact compute what PyTorch computed on the same text?

`probes` stores held-out text together with PyTorch's outputs. `gate.check_artefact` runs an
artefact on the probes, compares the outputs (`compare`) and applies the tolerances of its precision
(`tolerances`). `localize.explain` finds the layer and the node where an error is added, on a graph
that `instrument` has cut into parts. `onnx_file` checks an ONNX file before anything opens it.

May import `core` only; uses numpy, onnx and onnxruntime, never torch: a board runs these checks.
"""
