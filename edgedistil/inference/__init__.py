"""Uses an exported folder: numpy, onnxruntime and tokenizers only, no torch.

A class opens the folder that `edgedistil export` wrote and reads from it everything that decides
the result: tokenizer, length, pooling, prompts, labels and session options.
"""
