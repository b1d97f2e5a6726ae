"""Text sources, the tokenized corpus on disk, and masked batches.

The way of a text: `sources` reads documents (files, hub data sets, package assets), `heldout_split`
takes out the held-out ones, `tokenization` and `layouts` turn the others into rows of token ids,
`token_store` writes and memory-maps the rows, `corpus` caches the result under a hash of everything
that went in. `batches` decides which rows belong to a step, and `masking` hides tokens in them;
both are pure functions of the seed and the step (`counter_rng`).

Main entry points: `corpus.prepare_corpus`, `batches.BatchOrder`, `masking.mask_bert`.
May import: `core`, torch, tokenizers, datasets, pyarrow.
"""
