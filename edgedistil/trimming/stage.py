"""`edgedistil trim`: a model with a smaller vocabulary and nothing else changed."""

from __future__ import annotations

from pathlib import Path

from edgedistil.core import console
from edgedistil.core.budget_options import TrimOptions
from edgedistil.core.device import load_device
from edgedistil.core.errors import CorpusError, InputError
from edgedistil.core.model_source import find_model
from edgedistil.core.paths import require_new, user_path
from edgedistil.core.records import write_record
from edgedistil.core.rundir import replacing
from edgedistil.core.text import read_lines
from edgedistil.core.tokenizer import TextTokenizer, read_tokenizer
from edgedistil.core.tokenizer_trim import read_vocabulary
from edgedistil.core.trim_records import TrimRecord
from edgedistil.core.unknown_tokens import warn_of_unknown_tokens
from edgedistil.data.heldout_split import HeldoutSplit
from edgedistil.trimming.folder import CountedText, check_trimmable, trim_package
from edgedistil.trimming.latency import trim_latencies
from edgedistil.trimming.selection import (
    VocabularyRequest,
    count_tokens,
    select_tokens,
    warn_of_other_scripts,
)

MODEL_FOLDER, RECORD_FILE = "model", "trim.json"
# Of a text of 100 lines, 10 are enough for a rough figure; more than 2000 change no digit of it.
_HELDOUT_SHARE = 0.1
_HELDOUT_TEXTS = 2000


def trim(model: str, options: TrimOptions) -> tuple[Path, TrimRecord]:
    """Counts, selects, writes and compares: the body of `edgedistil.trim`, described there."""
    if (options.size is None) == (options.coverage is None):
        raise InputError(
            "expected exactly one of --size and --coverage",
            hint="--size 16000 keeps that many tokens; --coverage 0.9995 as many as that needs",
        )
    if options.coverage is not None and not 0 < options.coverage < 1:
        raise InputError(f"--coverage is {options.coverage}, expected more than 0 and less than 1")
    device = None if options.device is None else load_device(options.device)
    target = user_path(options.out) if options.out is not None else _default_target(model, options)
    require_new(target)
    package = find_model(model)
    source = check_trimmable(package)
    tokenizer = read_tokenizer(source.folder)
    text = _counted_text(options.text, tokenizer)
    request = VocabularyRequest(options.size, options.coverage)
    selection = select_tokens(tokenizer, text.counts_V, request)
    with replacing(target) as unfinished:
        unfinished.mkdir()
        record = trim_package(
            package, unfinished / MODEL_FOLDER, name=model, selection=selection, text=text
        )
        if device is not None:
            special = tokenizer.special_count(pair=False)
            latency = trim_latencies(source, record, device, special=special)
            record = record.model_copy(update={"latency": latency})
        write_record(unfinished / RECORD_FILE, record)
    return target, record


def _default_target(model: str, options: TrimOptions) -> Path:
    """Folder in the current one, named after the model and what was asked for."""
    name = model.removeprefix("asset:").rstrip("/").rsplit("/", 1)[-1]
    asked = options.size if options.size is not None else options.coverage
    return Path(f"{name}-{asked}")


def _counted_text(path: Path, tokenizer: TextTokenizer) -> CountedText:
    """Counts the tokens of a text file, but for a held-out tenth of its lines."""
    # The text may be what a run held out, all of whose hashes are small.
    split = HeldoutSplit(_HELDOUT_SHARE, _HELDOUT_TEXTS, salt="trim ")
    counted = [line for document in read_lines(path) for line in split.add(document)]
    heldout = split.documents()
    if not counted or not heldout:
        raise CorpusError(
            f"{path} has too few lines: a tenth of them is held out to judge the vocabulary",
            hint="give a text of a hundred lines or more, one sequence a line",
        )
    console.say(f"counting the tokens of {len(counted):,} lines of {path}")
    counts_V = count_tokens(tokenizer, counted)
    unknown = tokenizer.token_id("unk")
    warn_of_unknown_tokens(
        0 if unknown is None else int(counts_V[unknown]), int(counts_V.sum()), text=str(path)
    )
    scripts = warn_of_other_scripts(read_vocabulary(tokenizer), counted)
    return CountedText(
        name=str(path),
        counts_V=counts_V,
        heldout=heldout,
        heldout_name=f"{path}, held-out lines",
        other_scripts=scripts,
    )
