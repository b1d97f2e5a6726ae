"""Model → ONNX artefacts: traced, fused, quantized for a device, proven, packaged."""
