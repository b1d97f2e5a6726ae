"""CPU engine for distillation: results of the plain path, in less time.

`encoder` runs BERT and DistilBERT in one dtype, `layer` is a transformer layer with a hand-written
backward pass, `dropout` has cheap random masks, `projection` computes the losses on the vocabulary
without holding all logits, and `scratch` reuses memory.

Every part has a plain counterpart that its tests compare it with: transformers' own forward pass,
autograd, and the formulas of `edgedistil.models.losses`. The measurements behind the tricks are in
docs/log.md#teacher-student-and-the-fast-engine.
"""
