"""What a task's data is once it is read: examples, checked against the task's description."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from edgedistil.core.errors import TaskError
from edgedistil.evaluate.spec import TaskSpec

_SHUFFLE_SEED = 0  # which examples a limit keeps: the same for every model and seed


@dataclass(frozen=True)
class Answer:
    text: str
    start: int


@dataclass(frozen=True)
class Example:
    """One labelled example. `label` is a class 0…, a value, or 0 for a span; `part` is its dev file."""

    texts: tuple[str, ...]
    label: float = 0.0
    answers: tuple[Answer, ...] = ()
    part: int = 0
    id: str = ""


@dataclass(frozen=True)
class RawExample:
    """As it stands in a file: the label unread, the place known."""

    texts: tuple[str, ...]
    label: object
    where: str
    id: str = ""
    answers: tuple[Answer, ...] = ()
    part: int = 0


@dataclass(frozen=True)
class TaskData:
    """A task's examples, ready: labels are classes of `labels` or values; those of `unlabelled` mean nothing."""

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    labels: tuple[str, ...]
    origin: str
    warnings: tuple[str, ...] = ()
    unlabelled: tuple[Example, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Digest of every labelled example, train and dev, in order."""
        digest = hashlib.sha256()
        for example in (*self.train, *self.dev):
            fields = [
                example.texts,
                example.label,
                [(a.text, a.start) for a in example.answers],
                example.part,
            ]
            digest.update(json.dumps(fields).encode())
        return digest.hexdigest()

    @cached_property
    def unlabelled_sha256(self) -> str:
        """Digest of the texts without labels, in order."""
        return hashlib.sha256(
            json.dumps([example.texts for example in self.unlabelled]).encode()
        ).hexdigest()

    def limited(self, train_limit: int | None, dev_limit: int | None = None) -> TaskData:
        """The same data with at most so many examples a side: always the same ones, in a shuffled order.

        What is left out of the dev set is told among the warnings: a smaller set makes a wider interval.
        """
        train, dev = _some(self.train, train_limit), _some(self.dev, dev_limit)
        told = (
            ()
            if dev is self.dev
            else (f"{len(dev):,} of its {len(self.dev):,} dev examples are scored",)
        )
        if train is self.train and not told:
            return self
        return replace(self, train=train, dev=dev, warnings=(*self.warnings, *told))

    def with_unlabelled(
        self, texts: Iterable[tuple[str, ...]], limit: int | None, *, origin: str
    ) -> TaskData:
        """The same data with texts for the teacher to speak about; what the dev set asks is left out of them.

        Raises:
            TaskError: No text is left.
        """
        asked = {tuple(map(normalised, example.texts)) for example in self.dev}
        given = [Example(each) for each in texts]
        fit = tuple(each for each in given if tuple(map(normalised, each.texts)) not in asked)
        if not fit:
            raise TaskError(
                f"{origin}: no unlabelled texts",
                hint="of those there, texts of the dev set were left out",
            )
        told = (f"{len(given) - len(fit)} unlabelled texts that the dev set has too were left out",)
        return replace(
            self,
            unlabelled=_some(fit, limit),
            warnings=(*self.warnings, *(told if len(fit) < len(given) else ())),
        )


def _some(examples: tuple[Example, ...], limit: int | None) -> tuple[Example, ...]:
    if limit is None or limit >= len(examples):
        return examples
    chosen = random.Random(_SHUFFLE_SEED).sample(range(len(examples)), limit)  # noqa: S311 - no secret
    return tuple(examples[index] for index in chosen)


def checked_data(
    spec: TaskSpec,
    train: Iterable[RawExample],
    dev: Iterable[RawExample],
    *,
    origin: str,
    notes: Sequence[str] = (),
) -> TaskData:
    """Examples with their labels read.

    Raises:
        TaskError: A side is empty, a label is none of the task's or out of range, an id repeats; names file and line.
    """
    train, dev = list(train), list(dev)
    for side, examples in (("training", train), ("dev", dev)):
        if not examples:
            raise TaskError(
                f"task '{spec.name}' has no {side} examples ({origin})",
                hint="the file holds no rows",
            )
        _refuse_repeated_ids(examples)
    labels = _class_names(spec, train)
    read_train, read_dev = ([_read(spec, labels, raw) for raw in side] for side in (train, dev))
    return TaskData(
        tuple(read_train),
        tuple(read_dev),
        labels,
        origin,
        (*notes, *_overlap(read_train, read_dev)),
    )


def _refuse_repeated_ids(examples: list[RawExample]) -> None:
    first: dict[tuple[int, str], str] = {}
    for example in examples:
        if not example.id:
            continue
        key = (example.part, example.id)
        if key in first:
            raise TaskError(f"{example.where}: id '{example.id}' was used before, at {first[key]}")
        first[key] = example.where


def _class_names(spec: TaskSpec, train: list[RawExample]) -> tuple[str, ...]:
    if spec.kind in ("regression", "span"):
        return ()
    if spec.labels:
        return spec.labels
    found = tuple(sorted({str(raw.label) for raw in train}))
    if len(found) < 2:
        raise TaskError(
            f"task '{spec.name}': all training labels are '{found[0]}'; expected at least two classes"
        )
    return found


def _read(spec: TaskSpec, labels: tuple[str, ...], raw: RawExample) -> Example:
    if spec.kind == "span":
        _check_answers(raw)
        return Example(raw.texts, 0.0, raw.answers, raw.part, raw.id)
    label = _value(spec, raw) if spec.kind == "regression" else _class(spec, labels, raw)
    return Example(raw.texts, float(label), (), raw.part, raw.id)


def _class(spec: TaskSpec, labels: tuple[str, ...], raw: RawExample) -> int:
    if isinstance(raw.label, int) and not isinstance(raw.label, bool) and spec.labels:
        if 0 <= raw.label < len(labels):
            return raw.label  # the hub and parquet give the number of the class
        raise TaskError(
            f"{raw.where}: label {raw.label} is out of range: expected 0…{len(labels) - 1}"
        )
    written = spec.files.values if spec.files and spec.files.values else labels
    text = str(raw.label).strip()
    if text in written:
        return written.index(text)
    raise TaskError(f"{raw.where}: label '{text}' is none of {', '.join(written)}")


def _value(spec: TaskSpec, raw: RawExample) -> float:
    try:
        value = float(str(raw.label))
    except ValueError:
        raise TaskError(f"{raw.where}: label '{raw.label}' is no number") from None
    low, high = spec.range or (-1e30, 1e30)
    if not low <= value <= high:  # NaN is refused here too: it compares false
        raise TaskError(
            f"{raw.where}: label {value:g} is out of range: expected {low:g} to {high:g}"
        )
    return value


def _check_answers(raw: RawExample) -> None:
    if not raw.answers:
        raise TaskError(
            f"{raw.where}: question without an answer", hint="SQuAD 1.1 answers every question"
        )
    context = raw.texts[1]
    for answer in raw.answers:
        found = context[answer.start : answer.start + len(answer.text)]
        if found != answer.text or not answer.text:
            raise TaskError(
                f"{raw.where}: answer '{answer.text}' is not at character {answer.start}; there is '{found}'"
            )


def normalised(text: str) -> str:
    """Letters and digits only, lower case: how two writings of one sentence are told to be the same."""
    return re.sub(r"[\W_]+", "", text.lower())


def _overlap(train: list[Example], dev: list[Example]) -> list[str]:
    seen = {tuple(map(normalised, example.texts)) for example in train}
    shared = sum(tuple(map(normalised, example.texts)) in seen for example in dev)
    if not shared:
        return []
    return [
        f"{shared} of {len(dev)} dev texts are training texts too (but for case and punctuation)"
    ]
