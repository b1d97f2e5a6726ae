"""Whether an artefact gives a text the same outputs alone, padded, and next to other texts.

One activation scale for a call depends on every value of the call, so a stored vector cannot be
computed again in another batch. Texts of the probes are run alone, padded to several lengths, and
between shorter and longer texts; their own outputs are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistil.core.export_records import InvarianceRecord
from edgedistil.core.precision import PRECISIONS, Precision
from edgedistil.core.records import NotMeasured
from edgedistil.core.task import SENTENCE_OUTPUT, TASKS, Task
from edgedistil.parity.probes import ProbeBatch, Probes, by_question

Array = NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]

# Largest change, as a share of the largest output (of 1 if all are smaller).
MAX_CHANGE = 1e-5
_REASON = (
    "no operator reads another text or padding, so only the order of a sum may change. Measured: 0"
    " for BERT's kind on x86 with AVX-512, up to 1.2e-6 of the outputs for EuroBERT in float32"
)
_NO_BOUND = "one scale for a call depends on every token of the call"
_OWN_REASON = (
    "padding changes the model's own outputs, in PyTorch by up to {share:.2g} of the largest"
)
# A step of an 8-bit activation more or less in some values: 1.6% measured with EuroBERT.
_LEFT_CHANGE = 0.05
_LEFT_REASON = (
    "padding in front of a text moves its places, and integers carry the other rounding of their"
    " angles into the outputs; pad on the right for the same outputs in every batch"
)
# Share of the largest output from which on a change in PyTorch is the model's own. The order of a
# sum changes a few millionths, a vector at a padded position a tenth.
_OWN_CHANGE = 1e-4
# Texts and their longest length: every one is run six times.
_TEXTS = 6
_LONGEST = 96
# Odd lengths, so that a kernel computes the last columns by other code.
_PADDING = (1, 7, 32)
_NEIGHBOURS = 2


@dataclass(frozen=True)
class _Text:
    """A text, or the choices of one question, without padding.

    Attributes:
        feeds: Input → token ids or types, shape (choices or 1, own length).
        on_the_left: Whether padding comes before the tokens.
        pad_id: Token id at padding.
    """

    feeds: Mapping[str, Array]
    on_the_left: bool
    pad_id: int

    @property
    def length(self) -> int:
        """Own tokens; of several choices the most."""
        return int(self.feeds["input_ids"].shape[1])

    def padded(self, length: int) -> dict[str, Array]:
        """The inputs at a padded length."""
        missing = length - self.length
        width = (missing, 0) if self.on_the_left else (0, missing)
        fill = {"input_ids": self.pad_id}
        return {
            name: np.pad(array, ((0, 0), width), constant_values=fill.get(name, 0))
            for name, array in self.feeds.items()
        }

    def own_positions(self, length: int) -> slice:
        """Positions of the tokens at a padded length."""
        start = length - self.length if self.on_the_left else 0
        return slice(start, start + self.length)


@dataclass
class _Changes:
    """Largest differences from a text alone."""

    values: float = 0.0
    vector: float = 0.0
    answers: int = 0
    changed: int = 0
    calls: int = 0


@dataclass
class _Sum:
    padded: _Changes = field(default_factory=_Changes)
    neighbours: _Changes = field(default_factory=_Changes)
    largest: float = 1.0
    has_vector: bool = False


def check_invariance(run: Run, probes: Probes, precision: Precision) -> InvarianceRecord:
    """Runs texts alone, padded and next to others, and compares their own outputs.

    Args:
        run: The artefact: inputs → outputs, in any batch.
        probes: Where the texts come from.
        precision: Says whether the changes have a bound.
    Returns:
        The largest changes, and whether they are within the bound.
    """
    texts = _select_texts(probes)
    total = _Sum()
    for index, text in enumerate(texts):
        alone = _own_outputs(run, [text], 0, text.length, probes)
        total.largest = max(total.largest, *(_largest(array) for array in alone.values()))
        total.has_vector |= SENTENCE_OUTPUT in alone
        for length in _padded_lengths(text, probes):
            outputs = _own_outputs(run, [text], 0, length, probes)
            _compare(total.padded, alone, outputs, probes.task)
        for batch in _batches(texts, index):
            longest = max(other.length for other in batch)
            outputs = _own_outputs(run, batch, 1, longest, probes)
            _compare(total.neighbours, alone, outputs, probes.task)
    return _record(total, len(texts), probes, precision)


def find_change_by_padding(run: Run, probes: Probes) -> float:
    """Returns how much padding changes the outputs of the model itself.

    A model that pools the first position and pads on the left reads a padding token there. No
    artefact of it can have the same outputs in any batch.

    Args:
        run: The model in PyTorch: inputs → outputs.
        probes: Where the text and the side of the padding come from.
    Returns:
        The largest change of the shortest text as a share of its largest output; 0 within the
        rounding of sums.
    """
    text, changes = _select_texts(probes)[0], _Changes()
    alone = _own_outputs(run, [text], 0, text.length, probes)
    for length in _padded_lengths(text, probes):
        outputs = _own_outputs(run, [text], 0, length, probes)
        _compare(changes, alone, outputs, probes.task)
    largest = max(1.0, *(_largest(array) for array in alone.values()))
    share = max(changes.values, changes.vector) / largest
    return share if share > _OWN_CHANGE else 0.0


def _record(total: _Sum, texts: int, probes: Probes, precision: Precision) -> InvarianceRecord:
    parts = (total.padded, total.neighbours)
    bound: float | None
    bound, reason = MAX_CHANGE * total.largest, _REASON
    if not PRECISIONS[precision].invariant:
        bound, reason = None, _NO_BOUND
    elif probes.change_by_padding:
        bound, reason = None, _OWN_REASON.format(share=probes.change_by_padding)
    elif PRECISIONS[precision].weight_bits <= 8 and _padding_of(probes)[0]:
        # All of these round activations to 8 bits somewhere, int4 too.
        bound, reason = _LEFT_CHANGE * total.largest, _LEFT_REASON
    largest = max(max(part.values, part.vector) for part in parts)
    return InvarianceRecord(
        texts=texts,
        calls=sum(part.calls for part in parts),
        padded=total.padded.values,
        neighbours=total.neighbours.values,
        vector=max(part.vector for part in parts)
        if total.has_vector
        else NotMeasured(not_measured="the graph gives no sentence vector"),
        answers=sum(part.answers for part in parts),
        changed=sum(part.changed for part in parts),
        bound=bound,
        reason=reason,
        holds=bound is None or largest <= bound,
    )


# --- texts and batches ---------------------------------------------------------------------------


def _select_texts(probes: Probes) -> list[_Text]:
    """Texts of the probes, from the shortest to the longest that is run."""
    # Questions of unlike numbers of choices cannot be in one batch.
    alike = [batch for batch in probes if batch.choices == probes.batches[0].choices]
    texts = [text for batch in alike for text in _texts_of(batch, probes)]
    texts.sort(key=lambda text: text.length)
    short = [text for text in texts if text.length <= _LONGEST] or texts[:1]
    places = np.linspace(0, len(short) - 1, min(_TEXTS, len(short)))
    return [short[int(place)] for place in places]


def _texts_of(batch: ProbeBatch, probes: Probes) -> Iterator[_Text]:
    feeds = {"input_ids": batch.input_ids_BL, "attention_mask": batch.attention_mask_BL}
    if batch.token_type_ids_BL is not None:
        feeds["token_type_ids"] = batch.token_type_ids_BL
    on_the_left, pad_id = _padding_of(probes)
    rows = batch.choices or 1
    for start in range(0, batch.sequences, rows):
        mask = batch.attention_mask_BL[start : start + rows]
        occupied = np.flatnonzero(mask.any(axis=0))
        tokens = slice(occupied[0], occupied[-1] + 1)
        own = {name: array[start : start + rows, tokens] for name, array in feeds.items()}
        yield _Text(own, on_the_left, pad_id)


def _padding_of(probes: Probes) -> tuple[bool, int]:
    """Whether padding comes before the tokens, and its token id; as in the probes."""
    for batch in probes:
        if not batch.attention_mask_BL.all():
            row, position = np.argwhere(batch.attention_mask_BL == 0)[0]
            on_the_left = not batch.attention_mask_BL[:, 0].all()
            return on_the_left, int(batch.input_ids_BL[row, position])
    return False, 0


def _padded_lengths(text: _Text, probes: Probes) -> Iterator[int]:
    """Lengths that a text is padded to, within the positions that the model has."""
    for padding in _PADDING:
        if text.length + padding <= max(probes.lengths):
            yield text.length + padding


def _batches(texts: Sequence[_Text], index: int) -> Iterator[list[_Text]]:
    """A text between the shortest of the others, and between the longest."""
    others = [text for place, text in enumerate(texts) if place != index]
    for neighbours in (others[:_NEIGHBOURS], others[-_NEIGHBOURS:]):
        if neighbours:
            yield [neighbours[0], texts[index], *neighbours[1:]]


# --- outputs -------------------------------------------------------------------------------------


def _own_outputs(
    run: Run, batch: Sequence[_Text], index: int, length: int, probes: Probes
) -> dict[str, Array]:
    """One text's own outputs in a batch that is padded to a length."""
    padded = [text.padded(length) for text in batch]
    feeds = {name: np.concatenate([text[name] for text in padded]) for name in padded[0]}
    text, own = batch[index], {}
    for name, array in run(by_question(feeds, probes.batches[0].choices)).items():
        own[name] = array[index]
        if TASKS[probes.task].has_positions and name != SENTENCE_OUTPUT:
            own[name] = array[index][text.own_positions(length)]
    return own


def _largest(array: Array) -> float:
    return float(np.abs(array).max(initial=0.0))


def _compare(
    changes: _Changes, alone: Mapping[str, Array], other: Mapping[str, Array], task: Task
) -> None:
    """Adds the differences of one call."""
    changes.calls += 1
    for name, expected in alone.items():
        change = _largest(other[name].astype(np.float64) - expected)
        if name == SENTENCE_OUTPUT:
            changes.vector = max(changes.vector, change)
            continue
        changes.values = max(changes.values, change)
        # A span's answer is a position: the largest value of the only axis.
        if TASKS[task].level != "hidden":
            expected_answers = np.atleast_1d(expected.argmax(axis=-1))
            changes.answers += expected_answers.size
            answers = np.atleast_1d(other[name].argmax(axis=-1))
            changes.changed += int((answers != expected_answers).sum())
