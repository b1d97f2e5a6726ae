"""Options of an onnxruntime session, and the file session.json that recommends them.

`export` recommends options from what is known about an artefact, and `profile --tune` from
measurements on one machine. Both write the same file, in onnxruntime's own names, so that one
client reads either. `profile --memory-limit` adds the largest batches that fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from edgedistil.core.bulk_limit import BulkLimit
from edgedistil.core.errors import StorageError
from edgedistil.core.plain_json import from_json
from edgedistil.core.precision import Precision
from edgedistil.core.rundir import read_json, write_json

SESSION_FILE = "session.json"
# Written by `profile --browser chromium --tune`, read by `bundle --for web`.
WEB_SESSION_FILE = "session.chromium.json"
FORMAT = 1
PROVIDERS = ("CPUExecutionProvider",)

# Keys of onnxruntime's `add_session_config_entry`.
ALLOW_SPINNING = "session.intra_op.allow_spinning"
DISABLE_PREPACKING = "session.disable_prepacking"
EXACT_INT8 = "session.x64quantprecision"

GraphLevel = Literal["disabled", "basic", "extended", "all"]
# Level → member of onnxruntime's `GraphOptimizationLevel`.
GRAPH_LEVELS: Mapping[GraphLevel, str] = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
# Attributes of onnxruntime's `SessionOptions` whose values are members of an enumeration.
_ENUMERATIONS = {
    "graph_optimization_level": "GraphOptimizationLevel",
    "execution_mode": "ExecutionMode",
}


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """Options of one onnxruntime session on the CPU; the defaults are onnxruntime's own.

    Attributes:
        threads: Threads of one operator; 0: one per physical core.
        spinning: Waiting threads spin, which is faster and occupies their cores.
        arena: Memory is taken from an arena, which keeps what it has taken.
        graph_level: Level of onnxruntime's graph optimizations.
        prepacking: Weights are rearranged when the graph is loaded.
        exact_int8: On x86 without VNNI, sums of two int8 products do not saturate in 16 bits.
    """

    threads: int = 0
    spinning: bool = True
    arena: bool = True
    graph_level: GraphLevel = "all"
    prepacking: bool = True
    exact_int8: bool = False

    def __post_init__(self) -> None:
        """Checks the number of threads.

        Raises:
            ValueError: It is negative, or not an integer.
        """
        if type(self.threads) is not int or self.threads < 0:
            raise ValueError(f"threads: got {self.threads!r}; expected 0 or more")

    # The translation into onnxruntime's names is here and in `from_json`, nowhere else.
    def attributes(self) -> dict[str, str | int | bool]:
        """Attributes of onnxruntime's `SessionOptions`; enumeration members by name."""
        return {
            "graph_optimization_level": GRAPH_LEVELS[self.graph_level],
            # An encoder is one chain of operators: there is nothing to run in parallel.
            "execution_mode": "ORT_SEQUENTIAL",
            "inter_op_num_threads": 1,
            "intra_op_num_threads": self.threads,
            "enable_cpu_mem_arena": self.arena,
        }

    def config_entries(self) -> dict[str, str]:
        """Key → value for onnxruntime's `add_session_config_entry`."""
        entries = {ALLOW_SPINNING: "1" if self.spinning else "0"}
        if not self.prepacking:
            entries[DISABLE_PREPACKING] = "1"
        if self.exact_int8:
            entries[EXACT_INT8] = "1"
        return entries

    def to_json(self) -> dict[str, Any]:
        """Attributes and config entries, in onnxruntime's names."""
        return {"options": self.attributes(), "config_entries": self.config_entries()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SessionOptions:
        """Reads what `to_json` returns; an absent option has onnxruntime's default.

        Raises:
            KeyError, TypeError, ValueError: The data is malformed, or has an unknown option.
        """
        attributes, entries = data["options"], data["config_entries"]
        # An option that cannot be represented must not be dropped silently.
        known = [*cls().attributes(), ALLOW_SPINNING, DISABLE_PREPACKING, EXACT_INT8]
        unknown = [name for name in [*attributes, *entries] if name not in known]
        if unknown:
            names = ", ".join(unknown)
            raise ValueError(f"unknown option {names}; expected one of: {', '.join(known)}")
        # Files of earlier versions lack some options.
        values = {**cls().attributes(), **attributes}
        levels = {member: level for level, member in GRAPH_LEVELS.items()}
        if not isinstance(values["enable_cpu_mem_arena"], bool):
            raise ValueError("enable_cpu_mem_arena: expected true or false")
        return cls(
            threads=values["intra_op_num_threads"],
            spinning=entries.get(ALLOW_SPINNING, "1") == "1",
            arena=values["enable_cpu_mem_arena"],
            graph_level=levels[values["graph_optimization_level"]],
            prepacking=entries.get(DISABLE_PREPACKING, "0") == "0",
            exact_int8=entries.get(EXACT_INT8, "0") == "1",
        )

    def to_onnxruntime(self) -> Any:
        """Returns an `onnxruntime.SessionOptions` that logs errors only."""
        # Core is imported on machines that have no onnxruntime.
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        for name, value in self.attributes().items():
            if name in _ENUMERATIONS:
                value = getattr(getattr(onnxruntime, _ENUMERATIONS[name]), str(value))
            setattr(options, name, value)
        for key, text in self.config_entries().items():
            options.add_session_config_entry(key, text)
        return options

    def describe(self) -> str:
        """One line for a person: `2 threads, arena on, spinning off, ...`."""
        # Words of records, which devices that only run artefacts do not have.
        from edgedistil.core.format import plural

        threads = "all cores" if self.threads == 0 else plural(self.threads, "thread")
        parts = [
            threads,
            f"arena {_on_or_off(self.arena)}",
            f"spinning {_on_or_off(self.spinning)}",
            f"pre-packing {_on_or_off(self.prepacking)}",
            f"graph level {self.graph_level}",
        ]
        if self.exact_int8:
            parts.append("exact int8 sums")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class SessionAdvice:
    """Recommended session options of one artefact.

    Attributes:
        session: The options.
        reasons: Option or variant → why, or the ratio that was measured.
        precision: Precision of the artefact.
        target_device: Device that the options are for.
        opset: ONNX operator set of the graph; None if the writer did not read the graph.
        ir_version: ONNX IR version of the graph; None if the writer did not read the graph.
        bulk: Largest batches within a memory limit; None: no limit was measured.
    """

    session: SessionOptions
    reasons: Mapping[str, str]
    precision: Precision
    target_device: str
    opset: int | None = None
    ir_version: int | None = None
    bulk: BulkLimit | None = None

    def to_json(self) -> dict[str, Any]:
        """The entry of this artefact in session.json."""
        versions = {"opset": self.opset, "ir_version": self.ir_version}
        bulk = {} if self.bulk is None else {"bulk": asdict(self.bulk)}
        return {
            "precision": self.precision,
            **{name: version for name, version in versions.items() if version is not None},
            "target_device": self.target_device,
            "providers": list(PROVIDERS),
            **self.session.to_json(),
            "reasons": dict(self.reasons),
            **bulk,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SessionAdvice:
        """Reads an entry of session.json; an option that is absent has onnxruntime's default.

        Raises:
            KeyError, TypeError, ValueError: The entry is malformed, or has an unknown option.
        """
        return cls(
            session=SessionOptions.from_json(data),
            reasons=dict(data["reasons"]),
            precision=data["precision"],
            target_device=data["target_device"],
            opset=data.get("opset"),
            ir_version=data.get("ir_version"),
            bulk=from_json(BulkLimit, data["bulk"]) if "bulk" in data else None,
        )


def session_file(artefacts: Mapping[str, SessionAdvice]) -> dict[str, Any]:
    """Content of session.json for artefacts by their path, or by their label in a profile."""
    return {
        "format": FORMAT,
        "artefacts": {name: advice.to_json() for name, advice in artefacts.items()},
    }


def write_session_file(path: Path, artefacts: Mapping[str, SessionAdvice]) -> None:
    """Writes session.json for artefacts by their path, or by their label in a profile."""
    write_json(path, session_file(artefacts))


def read_session_file(path: Path) -> dict[str, SessionAdvice]:
    """Reads a session.json that `export` or `profile --tune` wrote.

    Returns:
        Path or label of the artefact → advice.
    Raises:
        StorageError: The file is missing, corrupt or of another format.
    """
    data = read_json(path)
    try:
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']}, expected {FORMAT}")
        return {name: SessionAdvice.from_json(entry) for name, entry in data["artefacts"].items()}
    except KeyError as error:
        raise _not_a_session_file(path, f"{error} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise _not_a_session_file(path, str(error)) from error


def set_bulk_limit(path: Path, artefact: str, limit: BulkLimit) -> None:
    """Writes the largest batches of an artefact into a session.json; the rest of it remains.

    Args:
        path: The session.json.
        artefact: Path or label of the artefact in it.
        limit: The largest batches.
    Raises:
        StorageError: The file is missing, corrupt or of another format, or lacks the artefact.
    """
    advice = read_session_file(path)
    if artefact not in advice:
        raise _not_a_session_file(path, f"it is about {', '.join(advice)}, not about {artefact}")
    write_session_file(path, {**advice, artefact: replace(advice[artefact], bulk=limit)})


def _not_a_session_file(path: Path, problem: str) -> StorageError:
    return StorageError(
        f"{path} is not a valid {SESSION_FILE}: {problem}",
        hint="write it again with edgedistil export or edgedistil profile --tune",
    )


def _on_or_off(value: bool) -> str:
    return "on" if value else "off"
