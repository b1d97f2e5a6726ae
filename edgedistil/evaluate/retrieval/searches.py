"""Rankings of one collection by several models, alone and in another's index."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgedistil.core.errors import TaskError
from edgedistil.core.evaluation_records import RetrievalDifference, RetrievalScore
from edgedistil.evaluate.retrieval.collection import Collection
from edgedistil.evaluate.retrieval.comparison import (
    BySeed,
    Estimate,
    describe_interval,
    estimate_difference,
    estimate_mean,
    estimate_ratio,
    estimate_rounding,
)
from edgedistil.evaluate.retrieval.embedders import Embedder, Vectors
from edgedistil.evaluate.retrieval.ranking import (
    MAIN_METRIC,
    METRICS,
    RetrievalScores,
    score_vectors,
)

STUDENT = "student"
UNDISTILLED = "student-step0"
STATIC = "static"


@dataclass(frozen=True)
class Searcher:
    """A model, or the students of several distillations under one name.

    Attributes:
        embedders: One for each distillation.
        in_index: Whether it also searches in the reference's vectors, as a device does whose index
            was built by the larger model.
    """

    embedders: Sequence[Embedder]
    in_index: bool = False

    @property
    def name(self) -> str:
        """Name in records."""
        return self.embedders[0].name


@dataclass(frozen=True)
class Rankings:
    """What several models found in one collection.

    Attributes:
        reference: Name of the model that the others are compared with.
        by_model: Metrics of each query, by model and distillation.
        notes: What the ranks depend on, for example texts that were cut.
    """

    reference: str
    by_model: dict[str, list[RetrievalScores]]
    notes: list[str]


@dataclass(frozen=True)
class Searches:
    """Results on one collection.

    Attributes:
        scores: One for each model and mode; the reference comes first.
        differences: Of the student and of artefacts, from what they are compared with.
        rankings: Metrics of each query, by model and distillation.
    """

    scores: list[RetrievalScore]
    differences: list[RetrievalDifference]
    rankings: Mapping[str, BySeed]


def search(collection: Collection, searchers: Sequence[Searcher]) -> Searches:
    """Ranks the documents of a collection by each model, and compares the models.

    Args:
        collection: Queries, documents and relevance.
        searchers: The models; the first one is the reference.
    """
    return compare(collection, rank_all(collection, searchers))


def rank_all(collection: Collection, searchers: Sequence[Searcher]) -> Rankings:
    """Ranks the documents of a collection by each model; arguments as in `search`."""
    queries, documents = list(collection.queries.values()), list(collection.documents.values())
    reference = searchers[0].name
    rankings: dict[str, list[RetrievalScores]] = {}
    notes = list(collection.notes)
    index: Vectors | None = None
    for searcher in searchers:
        alone, in_index = [], []
        for embedder in searcher.embedders:
            of_queries = embedder.embed(queries, "query")
            of_documents = embedder.embed(documents, "document")
            # The reference comes first, and its vectors are the index of the others.
            index = of_documents if index is None else index
            alone.append(score_vectors(collection, of_queries, of_documents, embedder.similarity))
            # Only vectors of one width compare.
            if searcher.in_index and of_queries.shape[1] == index.shape[1]:
                in_index.append(score_vectors(collection, of_queries, index, embedder.similarity))
        rankings[searcher.name] = alone
        if in_index:
            rankings[f"{searcher.name} in {reference}'s index"] = in_index
        notes += _cut_notes(searcher.embedders[0], queries, documents)
    return Rankings(reference, rankings, notes)


def compare(collection: Collection, rankings: Rankings) -> Searches:
    """Compares models with the reference, and with what they were made from.

    Args:
        collection: What was searched.
        rankings: Of its queries, in its order.
    Raises:
        TaskError: The reference finds nothing, so that nothing is a share of it.
    """
    by_model, reference = rankings.by_model, rankings.reference
    if all(ranking.mean(MAIN_METRIC) == 0 for ranking in by_model[reference]):
        raise TaskError(
            f"collection {collection.name}: {reference} ranks no relevant document among the first "
            f"ten of any of {len(collection.queries):,} queries",
            hint="check the ids in the file of relevance, and the prompts of the teacher",
        )
    scores = [
        _score(collection, name, by_seed, by_model[reference], reference, rankings.notes)
        for name, by_seed in by_model.items()
    ]
    return Searches(scores, list(_differences(collection, by_model)), by_model)


def _cut_notes(
    embedder: Embedder, queries: Sequence[str], documents: Sequence[str]
) -> Iterator[str]:
    """Yields how many texts are longer than a model reads."""
    of_queries = embedder.count_cut(queries, "query")
    of_documents = embedder.count_cut(documents, "document")
    if of_queries or of_documents:
        yield (
            f"{embedder.name} cuts {of_queries:,} of {len(queries):,} queries and "
            f"{of_documents:,} of {len(documents):,} documents, which are longer than it reads"
        )


def _score(
    collection: Collection,
    model: str,
    by_seed: BySeed,
    of_reference: BySeed,
    reference: str,
    notes: Sequence[str],
) -> RetrievalScore:
    score = estimate_mean(by_seed)
    retention = Estimate(1.0, 1.0, 1.0)
    if model != reference:
        retention = estimate_ratio(by_seed, of_reference)
    return RetrievalScore(
        collection=collection.name,
        origin=collection.origin,
        queries=len(collection.queries),
        documents=len(collection.documents),
        model=model,
        metrics={metric: _mean(by_seed, metric) for metric in METRICS},
        low=score.low,
        high=score.high,
        reference=reference,
        retention=retention.value,
        retention_low=retention.low,
        retention_high=retention.high,
        interval=describe_interval(len(by_seed)),
        notes=list(notes),
        seeds=len(by_seed),
    )


def _mean(by_seed: Sequence[RetrievalScores], metric: str) -> float:
    return sum(ranking.mean(metric) for ranking in by_seed) / len(by_seed)


# --- differences ---------------------------------------------------------------------------------


def _differences(
    collection: Collection, rankings: Mapping[str, BySeed]
) -> Iterator[RetrievalDifference]:
    """Yields what distillation gains, what rounding costs, and the lead over word vectors."""
    for model, other in _compared(list(rankings)):
        pairs = rankings[model], rankings[other]
        # Seeds of an artefact and its model are the same distillations; a baseline has its own.
        is_made_from = other not in (UNDISTILLED, STATIC)
        estimate = estimate_rounding if is_made_from else estimate_difference
        difference = estimate(*pairs)
        yield RetrievalDifference(
            collection=collection.name,
            model=model,
            other=other,
            difference=difference.value,
            low=difference.low,
            high=difference.high,
            interval=describe_interval(len(rankings[model])),
        )


def _compared(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields the pairs of models whose difference answers a question."""
    for other in (UNDISTILLED, STATIC):
        if STUDENT in names and other in names:
            yield STUDENT, other
    for name in names:
        # "student int8" and its index: the same student, rounded.
        words = name.split()
        if words[0] == STUDENT and len(words) > 1 and words[1] != "in":
            other = " ".join([words[0], *words[2:]])
            if other in names:
                yield name, other
