"""Distillation before fine-tuning: losses, training loop, checkpoints, and the fitted head."""
