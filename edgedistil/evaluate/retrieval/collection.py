"""A retrieval collection: documents, queries, and which documents answer a query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgedistil.core.errors import TaskError

# Grades of relevance by id of the document; a document that is not listed is not relevant.
Grades = Mapping[str, int]


@dataclass(frozen=True)
class Collection:
    """Documents and queries with known relevant documents.

    Attributes:
        name: Name in records.
        origin: Package or folder that it is from.
        documents: Id → text.
        queries: Id → text.
        relevance: Id of a query → grades of its relevant documents.
        notes: Remarks for the record, such as how many queries were left out.
    """

    name: str
    origin: str
    documents: Mapping[str, str]
    queries: Mapping[str, str]
    relevance: Mapping[str, Grades]
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.queries:
            raise TaskError(
                f"the collection {self.name} ({self.origin}) has no query with a relevant document",
                hint="check that the qrels name the ids of queries.jsonl",
            )
        if not self.documents:
            raise TaskError(f"the collection {self.name} ({self.origin}) has no documents")
