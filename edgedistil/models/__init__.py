"""Teacher and student: loading, taking layers, running the encoder, counting what a model is."""
