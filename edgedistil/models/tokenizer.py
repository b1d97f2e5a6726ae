"""Compares our reading of a tokenizer with transformers'."""

from __future__ import annotations

from transformers import AutoTokenizer

from edgedistil.core import console
from edgedistil.core.library_errors import library_errors
from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.core.tokenizer_match import warn_of_doubts
from edgedistil.models.quiet import quiet

# Text with what tokenizers differ in: case, accents, scripts, punctuation, numbers and blanks.
_SAMPLES = (
    "The Reader's café cost 1,234.50 €, didn't it?",
    "  Straße\tnaïve ÉCOLE ﬁne …  ",
    "他们在北京。 これは日本語です。 ภาษาไทย",
    "Привет, мир! שלום مرحبا नमस्ते 👍🏽",
)


def warn_if_read_otherwise(tokenizer: TextTokenizer) -> None:
    """Warns if a tokenizer may be another model's, or transformers gives other ids.

    A tokenizer.json that was taken as it is is compared with transformers' reading of it. The
    classes that `core.tokenizer` builds itself are compared in a test, the others here.

    Raises:
        ModelError: transformers cannot read the tokenizer.
    """
    warn_of_doubts(tokenizer.folder, tokenizer.doubts)
    if tokenizer.class_name is not None:
        return
    problem = f"transformers cannot read the tokenizer in {tokenizer.folder}"
    with library_errors(problem), quiet():
        theirs = AutoTokenizer.from_pretrained(tokenizer.folder, local_files_only=True)
        expected = theirs(list(_SAMPLES), padding=False)["input_ids"]
    encodings = tokenizer.backend.encode_batch(list(_SAMPLES))
    if [list(encoding.ids) for encoding in encodings] != expected:
        console.warn(
            f"transformers reads the tokenizer in {tokenizer.folder} as a "
            f"{type(theirs).__name__}, with other ids than tokenizer.json gives: the ids of "
            "tokenizer.json are used"
        )
