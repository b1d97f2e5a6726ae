"""`edgedistil evaluate --task retrieval`: search quality of a run's encoders, without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgedistil.core import console
from edgedistil.core.errors import InputError
from edgedistil.core.paths import user_path
from edgedistil.core.records import RetrievalScore
from edgedistil.core.rundir import RunDir
from edgedistil.core.task import ENCODER_TASK
from edgedistil.evaluate.planning import source_of
from edgedistil.evaluate.retrieval.beir import is_beir_folder, read_beir
from edgedistil.evaluate.retrieval.collection import Collection
from edgedistil.evaluate.retrieval.comparison import LEVEL, Estimate, estimate_mean, estimate_ratio
from edgedistil.evaluate.retrieval.embedders import (
    Embedder,
    Vectors,
    artefact_embedder,
    static_embedder,
    torch_embedder,
)
from edgedistil.evaluate.retrieval.packaged import load_packaged, packaged_names
from edgedistil.evaluate.retrieval.ranking import METRICS, RetrievalScores, score_vectors

# Name of the group of all packaged collections, and prefix of a single one.
GROUP = "retrieval"
_PREFIX = f"{GROUP}:"


def is_retrieval(task: str) -> bool:
    """Returns whether a name of --task is a retrieval collection: packaged, or a BEIR folder."""
    return task == GROUP or task.startswith(_PREFIX) or is_beir_folder(Path(task))


def load_collections(tasks: Sequence[str]) -> list[Collection]:
    """Loads the collections of some names, each once.

    Raises:
        TaskError: A name is unknown, or a folder is malformed.
        OfflineError: A package is not cached and cannot be downloaded.
    """
    names: list[str] = []
    for task in tasks:
        names += [f"{_PREFIX}{name}" for name in packaged_names()] if task == GROUP else [task]
    collections = []
    for name in dict.fromkeys(names):
        if name.startswith(_PREFIX):
            collections.append(load_packaged(name.removeprefix(_PREFIX)))
        else:
            collections.append(read_beir(user_path(name)))
    return collections


def evaluate_retrieval(
    run: RunDir,
    collections: Sequence[Collection],
    models: Sequence[str],
    *,
    reference: str,
    precision: str | None = None,
) -> list[RetrievalScore]:
    """Scores the rankings of a run's encoders on retrieval collections.

    The models search by themselves; the student also searches in the reference's vectors, as a
    device does whose index was built by the larger model. The static baseline (the reference's word
    vectors) is always among them.

    Args:
        run: The run.
        collections: Queries, documents and relevance.
        models: Models of the run, or folders.
        reference: Model whose score the others retain.
        precision: Also score the student's exported artefact in this precision.
    Raises:
        InputError: A model does not exist, or the student was not exported in the precision.
    """
    names = list(dict.fromkeys([reference, *models]))
    embedders = [torch_embedder(name, source_of(run, name).folder) for name in names]
    if precision is not None:
        folder = run.export("student", ENCODER_TASK)
        if not folder.is_dir():
            raise InputError(
                f"run '{run.name}' has no exported student for {ENCODER_TASK}",
                hint="run edgedistil export first",
            )
        embedders.append(artefact_embedder("student", folder, precision))
    scores: list[RetrievalScore] = []
    for collection in collections:
        console.say(
            f"{collection.name}: {len(collection.queries):,} queries, "
            f"{len(collection.documents):,} documents"
        )
        documents = list(collection.documents.values())
        static = static_embedder(source_of(run, reference).folder, documents)
        scores += _score_collection(collection, [*embedders, static])
    return scores


def _score_collection(
    collection: Collection, embedders: Sequence[Embedder]
) -> list[RetrievalScore]:
    """Scores all embedders on one collection; the first one is the reference."""
    texts = list(collection.queries.values()), list(collection.documents.values())
    vectors: dict[str, tuple[Vectors, Vectors]] = {}
    rankings: dict[str, RetrievalScores] = {}
    for embedder in embedders:
        of_model = embedder.embed(texts[0], "query"), embedder.embed(texts[1], "document")
        vectors[embedder.name] = of_model
        rankings[embedder.name] = score_vectors(collection, *of_model, embedder.similarity)

    # The student's queries among the reference's documents: only vectors of one width compare.
    reference = embedders[0].name
    for embedder in embedders[1:]:
        queries = vectors[embedder.name][0]
        documents = vectors[reference][1]
        is_student = embedder.name.split()[0] == "student"
        if is_student and queries.shape[1] == documents.shape[1]:
            name = f"{embedder.name} in {reference}'s index"
            rankings[name] = score_vectors(collection, queries, documents, embedder.similarity)
    return [
        _record(collection, name, ranking, rankings[reference], reference)
        for name, ranking in rankings.items()
    ]


def _record(
    collection: Collection,
    model: str,
    ranking: RetrievalScores,
    of_reference: RetrievalScores,
    reference: str,
) -> RetrievalScore:
    score = estimate_mean(ranking)
    retention = Estimate(1.0, 1.0, 1.0)
    if model != reference:
        retention = estimate_ratio(ranking, of_reference)
    return RetrievalScore(
        collection=collection.name,
        origin=collection.origin,
        queries=len(collection.queries),
        documents=len(collection.documents),
        model=model,
        metrics={metric: ranking.mean(metric) for metric in METRICS},
        low=score.low,
        high=score.high,
        reference=reference,
        retention=retention.value,
        retention_low=retention.low,
        retention_high=retention.high,
        interval=f"{LEVEL:.0%}, resampled queries",
        notes=list(collection.notes),
    )
