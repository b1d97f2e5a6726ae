"""Memory that a job may take, and errors of a model that does not run on this host."""

from __future__ import annotations

from collections.abc import Sequence

from edgedistil.core.errors import ModelError
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.rows import runtime_name
from edgedistil.runtime.local import LocalTarget
from edgedistil.runtime.protocol import Reply
from edgedistil.runtime.target import Target, raise_failure

# Python, numpy and onnxruntime with their threads: 0.6 GB here, more on a machine with many cores.
_BASE_BYTES = 3 * 2**30
# The file in memory, packed for the kernels, as it is optimized, and logits over its vocabulary.
_PER_MODEL_BYTE = 6
_PER_THREAD_BYTES = 16 * 2**20
# Activations of one token, and of one pair of tokens in 16 heads of attention.
_PER_TOKEN_BYTES = 256 * 2**10
_PER_TOKEN_PAIR_BYTES = 192
# A graph does not always say how many positions it has.
_LENGTH_HINT = (
    "it may have fewer positions than this: copy its config.json next to it, or pass --length"
)
_RUNTIME_HINT = "onnxruntime runs what edgedistil exports: leave out --runtime"


def private_memory_bytes(
    artefacts: Sequence[Artefact], *, longest: int, threads: int = 1, batch: int = 1
) -> int:
    """Returns what a job with these models may take; several times what a sound model needs.

    Args:
        artefacts: Models of the job, all loaded at once.
        longest: Tokens of its longest input.
        threads: Threads of a session.
        batch: Texts of a call, of graphs that take any number.
    """
    models = sum(artefact.file_bytes for artefact in artefacts)
    batch = max(batch, *(artefact.graph.batch for artefact in artefacts))
    activations = _PER_TOKEN_BYTES * longest + _PER_TOKEN_PAIR_BYTES * longest**2
    return (
        _BASE_BYTES + _PER_MODEL_BYTE * models + _PER_THREAD_BYTES * threads + batch * activations
    )


def require_success(target: Target, reply: Reply, artefacts: Sequence[Artefact]) -> None:
    """Raises if a job failed.

    Args:
        target: Where it ran.
        reply: Its reply.
        artefacts: Its models.
    Raises:
        ModelError: The runtime on this host refuses a model, so the file is the problem.
        TargetError: The job failed on the target.
    """
    error = reply.error
    on_host = isinstance(target, LocalTarget)
    if on_host and error is not None and error.kind == "exception":
        for artefact in artefacts:
            # What fails later says nothing about the model: a profile that cannot be written.
            phases = (f"load {artefact.label}", f"first call {artefact.label}")
            steady = error.phase.startswith(f"steady {artefact.label} ")
            if error.phase in phases or steady:
                hint = None if artefact.exported is None else _RUNTIME_HINT
                raise ModelError(
                    f"{artefact.named_file}: {runtime_name(artefact, reply)} cannot run it in the "
                    f"phase '{error.phase}': {error.message}",
                    hint=_LENGTH_HINT if steady else hint,
                )
    raise_failure(reply, source=target.source)
