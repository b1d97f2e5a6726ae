"""Finds tasks that are judged on the same texts: they are one piece of evidence, not two.

Tasks are evaluated by separate commands, so each record has a sketch of its dev texts: the smallest
digests of them. The smallest of two sketches together are a sample of both data sets' texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from edgedistil.core.evaluation_records import TaskFacts
from edgedistil.evaluate.examples import Example, normalize_text

# The share of common texts is then known to 3 points, and the record grows by 4 KB.
SKETCH_SIZE = 256
# From this share of the smaller dev set on, two tasks count as one.
SAME_TEXTS = 0.5
_DIGEST_BYTES = 6


def text_sketch(examples: Sequence[Example]) -> tuple[list[str], int]:
    """Returns the smallest digests of the texts of examples, and the number of distinct texts.

    Case and punctuation do not count.
    """
    texts = {normalize_text(text) for example in examples for text in example.texts}
    digests = sorted(
        hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest() for text in texts
    )
    return digests[:SKETCH_SIZE], len(texts)


def shared_texts(first: TaskFacts, second: TaskFacts) -> float:
    """Estimates the share of the smaller dev set's texts that the other one has, 0 to 1.

    Source: Broder 1997, on the resemblance and containment of documents.
    """
    sketches = [set(first.dev_sketch), set(second.dev_sketch)]
    # Only the smallest digests of both together are a sample of the union.
    union = sorted(sketches[0] | sketches[1])[:SKETCH_SIZE]
    if not union:
        return 0.0
    resemblance = len(sketches[0] & sketches[1] & set(union)) / len(union)
    total = first.dev_texts + second.dev_texts
    common = resemblance * total / (1 + resemblance)
    return min(1.0, common / min(first.dev_texts, second.dev_texts))


def mark_same_texts(tasks: Sequence[TaskFacts]) -> list[TaskFacts]:
    """Returns the tasks, each with the first earlier task that has its dev texts."""
    marked: list[TaskFacts] = []
    for task in tasks:
        earlier = [other for other in marked if other.same_texts_as is None]
        shares = {other.name: shared_texts(other, task) for other in earlier}
        same = [name for name, share in shares.items() if share >= SAME_TEXTS]
        name = same[0] if same else None
        share = shares[name] if name is not None else 0.0
        marked.append(task.model_copy(update={"same_texts_as": name, "same_texts_share": share}))
    return marked
