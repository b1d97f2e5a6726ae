"""Documents out of a data set of the hub, downloaded or streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgedistil.errors import CorpusError, OfflineError
from edgedistil.recipe import SourceSpec


def read_hub(spec: SourceSpec) -> Iterator[str]:
    """The text column of a hub data set, in its order.

    Raises:
        OfflineError: The hub cannot be reached and the data set is not cached.
        CorpusError: No such data set, configuration, split or column.
    """
    rows = _load(spec)
    if rows.column_names is not None and spec.field not in rows.column_names:
        raise CorpusError(
            f"hub data set '{spec.hub}' has no column '{spec.field}' (there: {', '.join(rows.column_names)})",
            hint="name the text column with `field` in the recipe's corpus source",
        )
    for number, row in enumerate(rows):
        text = row[spec.field]
        if not isinstance(text, str):
            raise CorpusError(
                f"hub data set '{spec.hub}' row {number}: '{spec.field}' is {type(text).__name__}, not text"
            )
        yield text


def _load(spec: SourceSpec) -> Any:
    import datasets  # seconds to import, and only this source needs it

    try:
        return datasets.load_dataset(spec.hub, spec.config, split=spec.split, streaming=spec.streaming)
    except (ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        raise OfflineError(
            f"cannot get the hub data set '{spec.hub}': {_first_line(error)}",
            hint="without a network, put its parquet files anywhere and name them with `files` instead of `hub`, "
            "or fill the cache of the datasets library (HF_HOME) on another machine",
        ) from error
    except ValueError as error:  # unknown configuration or split: the library says which there are
        raise CorpusError(f"hub data set '{spec.hub}': {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
