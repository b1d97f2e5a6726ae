"""Examples of a labelled task, and the data set that they form."""

from __future__ import annotations

import hashlib
import json
import random
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from edgedistil.core.errors import TaskError

# A limit selects the same examples for every model and every seed.
_SHUFFLE_SEED = 0
_NOT_ALPHANUMERIC = re.compile(r"[\W_]+", re.ASCII)


@dataclass(frozen=True)
class AnswerSpan:
    """An answer within the context of a question.

    Attributes:
        text: The answer as it occurs in the context.
        start: Index of its first character in the context.
    """

    text: str
    start: int


@dataclass(frozen=True)
class Example:
    """One labelled example.

    Attributes:
        texts: One or two texts.
        label: Class 0, 1, …, or a value; 0 where the labels are `answers`.
        answers: Correct answers to a question.
        part: Index of the dev file that the example is from.
        id: Identifier in the file; "" if it has none.
        group: What related examples share, such as a film; "" if they are independent.
    """

    texts: tuple[str, ...]
    label: float = 0.0
    answers: tuple[AnswerSpan, ...] = ()
    part: int = 0
    id: str = ""
    group: str = ""


@dataclass(frozen=True)
class RawExample:
    """An example as it is in a file, its label not interpreted yet.

    Attributes:
        where: File and line, for messages.
    """

    texts: tuple[str, ...]
    label: object
    where: str
    id: str = ""
    answers: tuple[AnswerSpan, ...] = ()
    part: int = 0
    group: str = ""


@dataclass(frozen=True)
class TaskData:
    """The data set of a task, checked.

    Attributes:
        train: Examples for fine-tuning.
        dev: Examples that models are scored on.
        labels: Names of the classes in order; empty where labels are not classes.
        origin: Where the data comes from.
        warnings: Remarks for the record, such as the number of rows left out.
        unlabelled: Texts for soft targets; their labels carry no meaning.
    """

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    labels: tuple[str, ...]
    origin: str
    warnings: tuple[str, ...] = ()
    unlabelled: tuple[Example, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Digest of all labelled examples, train and dev, in order."""
        # Examples one by one: the JSON of a large data set would double its memory.
        digest = hashlib.sha256()
        for example in (*self.train, *self.dev):
            # Part of the key of every cell: another format here would run all cells again.
            answers = [(answer.text, answer.start) for answer in example.answers]
            fields = [example.texts, example.label, answers, example.part]
            digest.update(json.dumps(fields).encode())
        return digest.hexdigest()

    @cached_property
    def unlabelled_sha256(self) -> str:
        """Digest of the unlabelled texts, in order."""
        texts = json.dumps([example.texts for example in self.unlabelled])
        return hashlib.sha256(texts.encode()).hexdigest()

    def limited(self, train_limit: int | None, dev_limit: int | None = None) -> TaskData:
        """Returns the data set with a limited number of examples.

        The selected examples are always the same ones, in shuffled order. A limited dev set adds a
        warning, because it widens the confidence intervals.

        Args:
            train_limit: Training examples at most; None: all.
            dev_limit: Dev examples at most; None: all.
        """
        # `_select` returns the same tuple if it has nothing to leave out.
        train, dev = _select(self.train, train_limit), _select(self.dev, dev_limit)
        if train is self.train and dev is self.dev:
            return self
        warnings = self.warnings
        if dev is not self.dev:
            warnings += (f"{len(dev):,} of its {len(self.dev):,} dev examples are scored",)
        return replace(self, train=train, dev=dev, warnings=warnings)

    def for_search(self, share: float) -> TaskData:
        """Returns the training examples alone, a share of them as the dev set to choose by.

        Examples of one group, and those of one text, are on one side.

        Args:
            share: Share of the groups that settings are judged on.
        Raises:
            TaskError: One of the two sides is empty.
        """
        judged: list[Example] = []
        trained: list[Example] = []
        for example in self.train:
            key = example.group or normalized_texts(example)
            (judged if _hash_share(key) < share else trained).append(example)
        if not judged or not trained:
            raise TaskError(
                f"{len(self.train)} training examples are too few to choose settings by a share of "
                f"{share:g}",
                hint="remove [training.search] from the task's file",
            )
        return replace(self, train=tuple(trained), dev=tuple(judged), unlabelled=())

    def with_unlabelled(
        self, texts: Iterable[tuple[str, ...]], limit: int | None, *, origin: str
    ) -> TaskData:
        """Returns the data set with unlabelled texts for the teacher's soft targets.

        Texts of the dev set are left out: a student that trained on them proves nothing there
        (docs/decisions.md#text-without-labels-belongs-to-the-task).

        Args:
            texts: One or two texts per example.
            limit: Texts at most; None: all.
            origin: Where the texts come from, for messages.
        Raises:
            TaskError: No text is left.
        """
        # Compare without case and punctuation: spellings of one text count as the same.
        dev_texts = {normalized_texts(example) for example in self.dev}
        candidates = [Example(item) for item in texts]
        usable = tuple(item for item in candidates if normalized_texts(item) not in dev_texts)
        if not usable:
            raise TaskError(
                f"{origin}: no unlabelled texts, expected at least one",
                hint="texts that also occur in the dev set are left out",
            )

        # The record reports the number, because it lowers that of the texts asked for.
        dropped = len(candidates) - len(usable)
        warnings = self.warnings
        if dropped:
            warnings += (f"{dropped} unlabelled texts that the dev set has too were left out",)
        return replace(self, unlabelled=_select(usable, limit), warnings=warnings)


def _hash_share(key: object) -> float:
    """Returns a number in [0, 1) that depends on a key alone."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def normalize_text(text: str) -> str:
    """Returns letters and digits in lower case, to compare texts across spellings.

    A text without any is returned as it is, without blanks around it.
    """
    lower = text.lower()
    if text.isascii():
        letters = _NOT_ALPHANUMERIC.sub("", lower)
    else:
        letters = "".join(character for character in lower if _is_letter(character))
    return letters or text.strip()


def _is_letter(character: str) -> bool:
    # Vowels of Hindi or Thai are marks, without which different words look the same.
    return character.isalnum() or unicodedata.category(character).startswith("M")


def normalized_texts(example: Example) -> tuple[str, ...]:
    """Returns the texts of an example, normalized for comparison."""
    return tuple(map(normalize_text, example.texts))


def count_shared(train: Sequence[Example], dev: Sequence[Example]) -> int:
    """Counts the dev examples whose texts also occur in the training examples."""
    # A pair is shared only if both texts are.
    train_texts = {normalized_texts(example) for example in train}
    return sum(normalized_texts(example) in train_texts for example in dev)


def _select(examples: tuple[Example, ...], limit: int | None) -> tuple[Example, ...]:
    if limit is None or limit >= len(examples):
        return examples
    # A sample and not the first ones: files are often sorted by label.
    generator = random.Random(_SHUFFLE_SEED)  # noqa: S311 - not for cryptography
    return tuple(examples[index] for index in generator.sample(range(len(examples)), limit))
