"""Documents from a data set of the Hugging Face hub, downloaded or streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgedistil.core import console
from edgedistil.core.errors import CorpusError, OfflineError
from edgedistil.core.recipe import SourceSpec


def read_hub_dataset(spec: SourceSpec) -> Iterator[str]:
    """Yields the text column of a hub data set, in its order.

    Raises:
        OfflineError: The hub cannot be reached and the data set is not cached.
        CorpusError: The data set, configuration, split or column does not exist.
    """
    streaming = " (streaming)" if spec.streaming else ""
    # Opening may download for minutes.
    console.say(f"opening the hub data set '{spec.hub}'{streaming}")
    rows = _load(spec)
    # A streamed data set may not know its columns before the first row is read.
    if rows.column_names is not None and spec.field not in rows.column_names:
        raise CorpusError(
            f"hub data set '{spec.hub}' has no column '{spec.field}' "
            f"(columns: {', '.join(rows.column_names)})",
            hint="name the text column with `field` in the recipe's corpus source",
        )
    try:
        for number, row in enumerate(rows):
            yield _text(row[spec.field], spec, number)
    # Streaming reads over the network while it yields rows.
    except ConnectionError as error:
        raise _unreachable(spec, error) from error


def _load(spec: SourceSpec) -> Any:
    import datasets  # takes seconds to import, and only this source needs it

    try:
        return datasets.load_dataset(
            spec.hub,
            spec.config,
            split=spec.split,
            revision=spec.revision,
            streaming=spec.streaming,
        )
    except ConnectionError as error:
        raise _unreachable(spec, error) from error
    # An unknown data set, configuration or split; the library's first line says which.
    except (FileNotFoundError, ValueError) as error:
        raise CorpusError(f"hub data set '{spec.hub}': {_first_line(error)}") from error


def _text(value: Any, spec: SourceSpec, number: int) -> str:
    if not isinstance(value, str):
        raise CorpusError(
            f"hub data set '{spec.hub}' row {number}: "
            f"'{spec.field}' is {type(value).__name__}, not text"
        )
    return value


def _unreachable(spec: SourceSpec, error: Exception) -> OfflineError:
    return OfflineError(
        f"cannot download the hub data set '{spec.hub}': {_first_line(error)}",
        hint="without a network, name its parquet files with `files` instead of `hub`, "
        "or fill the cache of the datasets library (HF_HOME) on another machine",
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
