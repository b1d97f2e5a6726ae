"""`edgedistil evaluate --task retrieval`: search quality of a run's encoders, without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgedistil.core import console
from edgedistil.core.errors import InputError
from edgedistil.core.evaluation_records import (
    EvaluationRecord,
    PairScore,
    RetrievalDifference,
    RetrievalScore,
)
from edgedistil.core.paths import user_path
from edgedistil.core.rundir import RunDir
from edgedistil.core.task import ENCODER_TASK
from edgedistil.evaluate.planning import source_of, trim_baselines
from edgedistil.evaluate.retrieval.beir import is_beir_folder, read_beir
from edgedistil.evaluate.retrieval.collection import Collection
from edgedistil.evaluate.retrieval.comparison import LEVEL
from edgedistil.evaluate.retrieval.embedders import (
    Embedder,
    artefact_embedder,
    static_embedder,
    torch_embedder,
)
from edgedistil.evaluate.retrieval.packaged import load_packaged, packaged_names
from edgedistil.evaluate.retrieval.pairs import PREFIX as PAIRS_PREFIX
from edgedistil.evaluate.retrieval.pairs import PairSet, correlate, read_pairs
from edgedistil.evaluate.retrieval.ranking import MAIN_METRIC
from edgedistil.evaluate.retrieval.searches import STUDENT, UNDISTILLED, Searcher, rank_all, search
from edgedistil.evaluate.retrieval.seed_runs import open_seed_runs

# Name of the group of all packaged collections, and prefix of a single one.
GROUP = "retrieval"
_PREFIX = f"{GROUP}:"


def is_retrieval(task: str) -> bool:
    """Returns whether a name of --task is a retrieval collection: packaged, or a BEIR folder."""
    return task == GROUP or task.startswith(_PREFIX) or is_beir_folder(Path(task))


@dataclass(frozen=True)
class EmbeddingResults:
    """Results of encoders without fine-tuning, in the order of collections and models."""

    retrieval: list[RetrievalScore]
    differences: list[RetrievalDifference]
    pairs: list[PairScore]

    def merged(self, earlier: EvaluationRecord) -> EmbeddingResults:
        """Returns these results after those of an earlier record that they do not replace."""
        mine = {(score.collection, score.model) for score in self.retrieval}
        rows = [row for row in earlier.retrieval if (row.collection, row.model) not in mine]
        compared = {(row.collection, row.model, row.other) for row in self.differences}
        others = [
            row
            for row in earlier.retrieval_differences
            if (row.collection, row.model, row.other) not in compared
        ]
        paired = {(row.name, row.model) for row in self.pairs}
        pairs = [row for row in earlier.pairs if (row.name, row.model) not in paired]
        return EmbeddingResults(
            [*rows, *self.retrieval], [*others, *self.differences], [*pairs, *self.pairs]
        )


def load_pair_sets(tasks: Sequence[str]) -> list[PairSet]:
    """Reads the files of graded pairs of some names of --task."""
    return [read_pairs(user_path(task.removeprefix(PAIRS_PREFIX))) for task in tasks]


def check_collections(tasks: Sequence[str]) -> None:
    """Raises TaskError for an unknown name or a malformed folder; reads no package."""
    packaged = {GROUP, *(f"{_PREFIX}{name}" for name in packaged_names())}
    load_collections([task for task in tasks if task not in packaged])


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
    pair_sets: Sequence[PairSet],
    models: Sequence[str],
    *,
    reference: str,
    precision: str | None = None,
    seed_runs: Sequence[str] = (),
) -> EmbeddingResults:
    """Scores a run's encoders on retrieval collections and graded pairs.

    The models search by themselves; the student also searches in the reference's vectors, as a
    device does whose index was built by the larger model. The student before distillation and the
    static baseline (the reference's word vectors) are always among them.

    Args:
        run: The run.
        collections: Queries, documents and relevance.
        pair_sets: Pairs of texts with grades.
        models: Models of the run, or folders.
        reference: Model whose score the others retain.
        precision: Also score the student's exported artefact in this precision.
        seed_runs: Names of runs of the same recipe with other seeds.
    Raises:
        InputError: A model does not exist, the student was not exported in the precision, or a run
            has another recipe.
    """
    if not collections and not pair_sets:
        return EmbeddingResults([], [], [])
    runs = open_seed_runs(run, seed_runs)
    # What trimming alone and distilling alone cost, if the run trimmed its vocabulary.
    names = [reference, *models, *trim_baselines(run)]
    if run.student_step0.exists():
        names.append(UNDISTILLED)
    searchers = [_searcher(runs, name) for name in dict.fromkeys(names)]
    if precision is not None:
        artefact = _artefact(run, precision)
        searchers.append(Searcher([artefact], in_index=True))
        # The same student, unrounded: with several distillations `student` is their mean.
        if len(runs) > 1:
            one = torch_embedder(STUDENT, source_of(run, STUDENT).folder)
            searchers.append(Searcher([replace(one, name=f"{STUDENT} {run.name}")]))
    results = EmbeddingResults([], [], [])
    teacher_folder = source_of(run, reference).folder
    for collection in collections:
        console.say(
            f"{collection.name}: {len(collection.queries):,} queries, "
            f"{len(collection.documents):,} documents"
        )
        static = static_embedder(teacher_folder, list(collection.documents.values()))
        outcome = search(collection, [*searchers, Searcher([static])])
        results.retrieval.extend(outcome.scores)
        results.differences.extend(outcome.differences)
    for pairs in pair_sets:
        static = static_embedder(teacher_folder, [*pairs.first, *pairs.second])
        for searcher in [*searchers, Searcher([static])]:
            results.pairs.append(_pair_score(pairs, searcher.embedders[0]))
    return results


def student_ndcg(run: RunDir, collections: Sequence[Collection]) -> float:
    """Returns the mean nDCG@10 of a run's student alone; nothing is compared or stored.

    Args:
        run: The run.
        collections: At least one.
    """
    searcher = Searcher([torch_embedder(STUDENT, source_of(run, STUDENT).folder)])
    scores = [
        rank_all(collection, [searcher]).by_model[STUDENT][0].mean(MAIN_METRIC)
        for collection in collections
    ]
    return sum(scores) / len(scores)


def _searcher(runs: Sequence[RunDir], name: str) -> Searcher:
    """A model of the run; the student of every run with another seed."""
    if name != STUDENT:
        return Searcher([torch_embedder(name, source_of(runs[0], name).folder)])
    embedders = [torch_embedder(name, source_of(run, name).folder) for run in runs]
    return Searcher(embedders, in_index=True)


def _artefact(run: RunDir, precision: str) -> Embedder:
    folder = run.export(STUDENT, ENCODER_TASK)
    if not folder.is_dir():
        raise InputError(
            f"run '{run.name}' has no exported student for {ENCODER_TASK}",
            hint="run edgedistil export first",
        )
    return artefact_embedder(STUDENT, folder, precision)


def _pair_score(pairs: PairSet, embedder: Embedder) -> PairScore:
    outcome = correlate(pairs, embedder)
    return PairScore(
        name=pairs.name,
        origin=pairs.origin,
        pairs=len(pairs.grades),
        model=embedder.name,
        pearson=outcome.pearson.value,
        pearson_low=outcome.pearson.low,
        pearson_high=outcome.pearson.high,
        spearman=outcome.spearman.value,
        spearman_low=outcome.spearman.low,
        spearman_high=outcome.spearman.high,
        interval=f"{LEVEL:.0%}, resampled pairs",
    )
