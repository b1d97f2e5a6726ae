"""EdgeDistil: distil a language encoder before fine-tuning, export it, prove it, and profile it on its device."""

__version__ = "0.1.0"
