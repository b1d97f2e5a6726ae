"""WordPiece vocabularies that come out the same in every process."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def word_piece_tokenizer(text: Sequence[str], size: int) -> Tokenizer:
    """Trains a lower-case WordPiece tokenizer; it adds no special tokens to a text."""
    ids = word_pieces(text, size)
    tokenizer = _tokenizer(models.WordPiece(ids, unk_token="[UNK]"), lowercase=True)
    tokenizer.add_special_tokens(BERT_SPECIAL)
    return tokenizer


def word_pieces(
    text: Sequence[str],
    size: int,
    *,
    lowercase: bool = True,
    special: Sequence[str] = BERT_SPECIAL,
    progress: bool = False,
) -> dict[str, int]:
    """Returns token → id in the order of ids: the special tokens, then the others sorted.

    The trainer numbers letters inside words in another order in every process, and decides by
    these numbers between pairs that are equally frequent. So the ##letters are passed as special
    tokens in sorted order, which fixes their ids.

    Raises:
        ValueError: Special tokens and letters alone are more than `size` tokens.
    """
    trained = _tokenizer(models.WordPiece(unk_token="[UNK]"), lowercase)
    words = trained.pre_tokenizer.pre_tokenize_str
    normalize = trained.normalizer.normalize_str
    inside = {letter for line in text for word, _ in words(normalize(line)) for letter in word[1:]}
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=[*special, *(f"##{letter}" for letter in sorted(inside))],
        show_progress=progress,
    )
    trained.train_from_iterator(text, trainer)
    tokens = [*special, *sorted(set(trained.get_vocab()) - set(special))]
    # The trainer never drops special tokens and letters, whatever the size.
    if len(tokens) > size:
        raise ValueError(
            f"the special tokens and the letters of the text are {len(tokens)} tokens, more than "
            f"the size {size}; set a size of {len(tokens)} or more, or use text of fewer scripts"
        )
    return {token: index for index, token in enumerate(tokens)}


def _tokenizer(model: models.Model, lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer
