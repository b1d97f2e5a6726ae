"""Fine-tune teacher and student on labelled tasks, score models and artefacts, and say what the student keeps."""
