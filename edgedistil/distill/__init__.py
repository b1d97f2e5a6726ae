"""Distillation before fine-tuning: losses, the loop, checkpoints, and the head for a teacher that has none."""
