"""Fine-tunes models on labelled tasks, scores them and their artefacts, and estimates retention."""
