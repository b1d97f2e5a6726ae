"""Parity: real text in, PyTorch's answers beside the artefact's, a verdict with reasons. numpy and onnxruntime only."""
