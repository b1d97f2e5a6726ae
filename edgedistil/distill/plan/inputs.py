"""Teacher and corpus of a plan, as the run would have them, or as far as they are known."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import AutoModelForMaskedLM, PreTrainedModel

from edgedistil.core.errors import OfflineError
from edgedistil.core.places import cache_root
from edgedistil.core.recipe import Corpus, Recipe, Train
from edgedistil.core.recipe_student import VocabularySection
from edgedistil.core.records import Count, NotMeasured
from edgedistil.core.sentence_vector import SentenceVector
from edgedistil.data.corpus import TokenizedCorpus, prepare_corpus
from edgedistil.distill import setup
from edgedistil.distill.objective import Kind, objective_kind
from edgedistil.distill.plan.estimate import UnknownSizeError, estimate_tokens
from edgedistil.distill.plan.presets import known_teacher
from edgedistil.distill.plan.reuse import ReadText
from edgedistil.distill.run_objective import has_other_encoder
from edgedistil.distill.schedule import RunLength
from edgedistil.distill.sentence_setup import check_objective, read_prompts, teacher_vector
from edgedistil.distill.trimmed_teacher import trim_teachers
from edgedistil.models.reduced import build_from_config
from edgedistil.models.sentence_encoder import SentenceEncoder, build_head
from edgedistil.models.teacher import Teacher


@dataclass(frozen=True)
class PlannedTeacher:
    """The teacher of a plan.

    Attributes:
        loaded: The teacher; None if it cannot be downloaded.
        model: The teacher's model, or one of its shape with random weights.
        how: Where the model comes from, as plans print it.
        vector: How it makes sentence vectors; None for the objective mlm.
        fits_head: Whether an MLM head is fitted to it first.
    """

    loaded: Teacher | None
    model: PreTrainedModel
    how: str
    vector: SentenceVector | None = None
    fits_head: bool = False

    @property
    def kind(self) -> Kind:
        return "mlm" if self.vector is None else "representation"

    def has_original(self, recipe: Recipe) -> bool:
        """Whether the cosine loss reads the teacher as given besides the one with its head."""
        return has_other_encoder(recipe.teacher.fit, is_fitted=self.fits_head)

    def encoder(self, vector: SentenceVector) -> SentenceEncoder:
        """Returns the model with the layers that make its vectors."""
        # A teacher of known shape has no layers with weights there.
        folder = Path() if self.loaded is None else self.loaded.folder
        head = build_head(vector, folder).requires_grad_(False)
        return SentenceEncoder(self.model.base_model, vector, head).eval()


def planned_teacher(recipe: Recipe) -> PlannedTeacher:
    """Returns the teacher of a recipe, checked, or one of its shape.

    Raises:
        InputError: It does not suit the recipe, or is neither available nor well known.
    """
    section = recipe.teacher
    try:
        loaded = setup.load_recipe_teacher(section)
    except OfflineError:
        planned = _teacher_of_known_shape(recipe)
        if planned is None:
            raise
        return planned
    vector = None
    is_mlm = setup.recipe_objective(recipe, loaded) == "mlm"
    if not is_mlm:
        vector = teacher_vector(loaded, section)
        layout = setup.corpus_section(recipe, "representation").layout
        check_objective(recipe, loaded, vector, layout=layout)
    fits_head = is_mlm and not loaded.has_mlm_head
    return PlannedTeacher(loaded, loaded.model, "counted on the model", vector, fits_head)


def _teacher_of_known_shape(recipe: Recipe) -> PlannedTeacher | None:
    """A model with random weights in the shape of a well-known teacher; None for others."""
    known = known_teacher(recipe.teacher.source)
    if known is None:
        return None
    vector = known.vector()
    kind = objective_kind(recipe.objective, recipe.teacher, has_mlm_head=vector is None)
    # The costs of a model depend on its shape alone.
    model = build_from_config(AutoModelForMaskedLM, known.config()).eval()
    fits_head = kind == "mlm" and vector is not None
    if kind == "mlm":
        vector = None
    elif vector is None:
        vector = SentenceVector(pooling=("mean",), steps=(), dimension=known.hidden, is_guess=True)
    # A plan says where each of its figures comes from.
    how = "known shape, random weights: the hub is not reachable"
    return PlannedTeacher(None, model, how, vector, fits_head)


@dataclass(frozen=True)
class PlannedCorpus:
    """Size of a plan's corpus.

    Attributes:
        tokens: Tokens of the training part; of one row if the size is unknown.
        rows: Rows of the training part.
        heldout_tokens: Tokens of the held-out part.
        how: How these are known, as plans print it.
        tokenized: The corpus; None if the numbers are estimates.
        unknown: Why the size is unknown; None if it is known.
    """

    tokens: int
    rows: int
    heldout_tokens: int
    how: str
    tokenized: TokenizedCorpus | None = None
    unknown: UnknownSizeError | None = None

    @property
    def size(self) -> Count:
        """Tokens of the training part, where they are known."""
        if self.unknown is None:
            return self.tokens
        return NotMeasured(not_measured=self.unknown.message)

    def read_text(self, length: RunLength) -> ReadText | None:
        """Returns the text as a run of a length reads it; None if its size is unknown."""
        if self.unknown is not None:
            return None
        return ReadText(self.tokens, self.rows, length.tokens / self.tokens)

    def run_length(self, settings: Train) -> RunLength:
        """Returns the length of a run; raises UnknownSizeError if it needs the size."""
        if self.unknown is not None and settings.epochs is not None:
            raise self.unknown
        return RunLength.of(settings, corpus_tokens=self.tokens, corpus_rows=self.rows)


def planned_corpus(section: Corpus, teacher: PlannedTeacher) -> PlannedCorpus:
    """Returns the size of a corpus: counted, unless that needs a download.

    Raises:
        CorpusError: A source is missing or empty.
    """
    if teacher.loaded is not None and all(spec.hub is None for spec in section.sources):
        prompts = None if teacher.vector is None else read_prompts(teacher.vector)
        folder = teacher.loaded.folder
        corpus = prepare_corpus(section, folder, cache=cache_root(), prompts=prompts)
        return PlannedCorpus(
            corpus.train.tokens, len(corpus.train), corpus.heldout.tokens, "counted", corpus
        )
    # Estimated from sizes; the held-out part is a share of the text.
    share = section.heldout_share
    try:
        tokens, how = estimate_tokens(section.sources, heldout_share=share)
    except UnknownSizeError as error:
        # Rows are as long as a block, and there is enough text for an evaluation.
        return PlannedCorpus(section.block_length, 1, 10**9, "unknown", unknown=error)
    rows = max(1, tokens // section.block_length)
    return PlannedCorpus(tokens, rows, max(1, round(tokens * share / (1 - share))), how)


def with_vocabulary(
    vocabulary: VocabularySection, section: Corpus, teacher: PlannedTeacher, corpus: PlannedCorpus
) -> tuple[PlannedTeacher, PlannedCorpus]:
    """Returns teacher and corpus in the tokens that a trimmed vocabulary has.

    They are made as the run makes them, and stay in the cache. Where the text is not on this
    machine, the model has random weights, and the corpus as many tokens as before.

    Args:
        vocabulary: Recipe section [student.vocabulary].
        section: Recipe section [corpus].
        teacher: The teacher with its own vocabulary.
        corpus: The corpus in its tokens.
    Raises:
        InputError: The vocabulary cannot be trimmed so.
        UnknownSizeError: Its size depends on text that is not on this machine.
    """
    if teacher.loaded is not None and corpus.tokenized is not None:
        trimmed = trim_teachers(
            vocabulary, teacher.loaded, teacher.loaded, corpus.tokenized, cache=cache_root()
        ).teacher
        learning = replace(teacher, loaded=trimmed, model=trimmed.model)
        return learning, planned_corpus(section, learning)
    if vocabulary.size is None:
        raise UnknownSizeError(
            "a vocabulary of a given coverage is counted on the text, which is not on this machine",
            hint="plan with student.vocabulary.size instead",
        )
    config = copy.deepcopy(teacher.model.config)
    config.vocab_size = vocabulary.size
    # A padding token beyond the vocabulary is refused.
    config.pad_token_id = min(config.pad_token_id or 0, vocabulary.size - 1)
    model: PreTrainedModel = type(teacher.model)(config)
    return replace(teacher, model=model.eval()), corpus
