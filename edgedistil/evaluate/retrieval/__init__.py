"""Search quality of sentence encoders: collections, ranking and metrics.

Nothing is trained here: a model turns queries and documents into vectors, documents are ranked by
similarity, and the ranking is compared with the relevant documents.
"""
