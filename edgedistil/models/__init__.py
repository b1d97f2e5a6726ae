"""Teacher and student models, their losses, and a fast CPU engine.

`teacher` loads the model that is distilled, `student` builds one from its layers, `facts` counts a
model's size, `losses` has the plain formulas, and `fast/` computes the same results in less time.
`native_dtype` answers whether a device computes bfloat16, `quiet` silences transformers.

May import: `core`, torch, transformers, safetensors.
"""
