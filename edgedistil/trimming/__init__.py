"""Models with a smaller vocabulary: which tokens stay, the weights, and the proof."""
