"""Documents from a data set of the Hugging Face hub, downloaded or streamed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgedistil.core import console
from edgedistil.core.errors import CorpusError, EdgeDistilError, OfflineError, StorageError
from edgedistil.core.recipe import SourceSpec
from edgedistil.data.text_files import check_document


def read_hub_dataset(spec: SourceSpec) -> Iterator[str]:
    """Yields the text column of a hub data set, in its order.

    Raises:
        OfflineError: The hub cannot be reached and the data set is not cached.
        CorpusError: The data set, configuration, split or column does not exist.
    """
    streaming = " (streaming)" if spec.streaming else ""
    # Opening may download for minutes.
    console.say(f"opening the hub data set '{spec.hub}'{streaming}")
    with _explain_errors(spec):
        rows = _load(spec)
        # A streamed data set may not know its columns before the first row is read.
        if rows.column_names is not None and spec.field not in rows.column_names:
            raise CorpusError(
                f"hub data set '{spec.hub}' has no column '{spec.field}' "
                f"(columns: {', '.join(rows.column_names)})",
                hint="name the text column with `field` in the recipe's corpus source",
            )
        # Streaming reads over the network while it yields rows.
        for number, row in enumerate(rows):
            yield _text(row.get(spec.field), spec, number)


def _load(spec: SourceSpec) -> Any:
    import datasets  # takes seconds to import, and only this source needs it

    return datasets.load_dataset(
        spec.hub,
        spec.config,
        split=spec.split,
        revision=spec.revision,
        streaming=spec.streaming,
    )


def _text(value: Any, spec: SourceSpec, number: int) -> str:
    if not isinstance(value, str):
        raise CorpusError(
            f"hub data set '{spec.hub}' row {number}: "
            f"'{spec.field}' is {type(value).__name__}, not text"
        )
    check_document(len(value), f"hub data set '{spec.hub}' row {number}")
    return value


@contextmanager
def _explain_errors(spec: SourceSpec) -> Iterator[None]:
    """Turns the library's errors into ours, with the data set's name."""
    try:
        yield
    except EdgeDistilError:
        raise
    except ConnectionError as error:
        raise _unreachable(spec, error) from error
    except OSError as error:
        # With an error number it is the system's, about the library's own cache.
        if error.errno is not None and not isinstance(error, FileNotFoundError):
            raise StorageError(
                f"cannot use the cache of the datasets library: {error}",
                hint="set HF_HOME to a folder that can be written",
            ) from error
        raise _unusable(spec, error) from error
    # An unknown data set, configuration or split, or a corrupt file: the library raises exceptions
    # of many types, and its first line says which.
    except Exception as error:
        raise _unusable(spec, error) from error


def _unusable(spec: SourceSpec, error: Exception) -> CorpusError:
    return CorpusError(
        f"hub data set '{spec.hub}': {_first_line(error) or type(error).__name__}",
        hint="check hub, config, split and revision of the recipe's corpus source",
    )


def _unreachable(spec: SourceSpec, error: Exception) -> OfflineError:
    return OfflineError(
        f"cannot download the hub data set '{spec.hub}': {_first_line(error)}",
        hint="without a network, name its parquet files with `files` instead of `hub`, "
        "or fill the cache of the datasets library (HF_HOME) on another machine",
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
