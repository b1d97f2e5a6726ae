"""Text sources, the memory-mapped token corpus, masking and batches."""
