"""A browser as a target: a job runs in a page of a headless Chromium on this machine.

Every job has a browser and a server of its own. Times are the page's; processor time and memory of
the page's process are read on this side.
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgedistil.core.errors import InputError, TargetError
from edgedistil.core.format import mebibytes
from edgedistil.core.records import Method
from edgedistil.core.rundir import sha256_file
from edgedistil.runtime import host
from edgedistil.runtime.browser.chromium import (
    CPU_ONLY,
    Page,
    chromium,
    chromium_version,
    find_chromium,
)
from edgedistil.runtime.browser.counters import PageCounters
from edgedistil.runtime.browser.server import JobState, serve
from edgedistil.runtime.machine_facts import MachineIdentity
from edgedistil.runtime.npm import (
    ONNXRUNTIME_WEB,
    TOKENIZER_LIBRARY,
    TOKENIZERS,
    package_files,
)
from edgedistil.runtime.protocol import RUNNER, Job, Reply
from edgedistil.runtime.reply import parse_reply

Provider = Literal["wasm", "webgpu"]
# Provider → module of onnxruntime-web, and the files that it loads.
_RUNTIMES: Mapping[Provider, tuple[str, Sequence[str]]] = {
    "wasm": (
        "ort.wasm.min.mjs",
        ("ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    ),
    "webgpu": (
        "ort.webgpu.min.mjs",
        ("ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
    ),
}
# WebGPU on Vulkan in software, which computes what hardware would, many times slower.
_SOFTWARE_GPU = (
    "--enable-unsafe-webgpu",
    "--enable-features=Vulkan,WebGPU",
    "--use-webgpu-adapter=swiftshader",
    "--use-vulkan=swiftshader",
    "--use-angle=swiftshader",
)
_DEFAULT_TIMEOUT_S = 3600.0
# Tokenization of a few hundred texts takes less than a second.
_TOKENS_TIMEOUT_S = 300.0
# Files of an export that its tokenizer in JavaScript needs.
PAGE_TOKENIZER_FILES = ("tokenizer.mjs", "tokenizer.json", "contract.json")
# Conditions of a row that say what the page used.
PAGE_USE = ("downloaded", "wasm heap", "js heap", "page threads")
_PHASES = ("steady", "outputs", "energy", "ops")


@dataclass(frozen=True)
class PageFacts:
    """What a page can use.

    Attributes:
        isolated: Whether it may share memory, which threads need.
        cores: Cores that the browser reports.
        agent: The browser's name for servers.
    """

    isolated: bool
    cores: int
    agent: str


@dataclass(frozen=True)
class BrowserTarget:
    """A headless Chromium on this machine.

    Attributes:
        program: Path of the browser.
        version: Its version.
        provider: wasm, or webgpu in software, which gives no times.
        isolated: Whether the server sends the headers that threads need.
        name: Device name in rows.
    """

    program: str
    version: str
    provider: Provider = "wasm"
    isolated: bool = True
    name: str = "chromium"

    @classmethod
    def find(cls, *, provider: Provider = "wasm", isolated: bool = True) -> BrowserTarget:
        """Returns the installed browser.

        Raises:
            TargetError: No browser is installed.
        """
        program = find_chromium()
        return cls(program, chromium_version(program), provider, isolated)

    @property
    def method(self) -> Method:
        """Measured with WebAssembly; a GPU in software gives outputs and no times."""
        return "measured" if self.provider == "wasm" else "emulated"

    @property
    def source(self) -> str:
        """Name in messages."""
        return f"Chromium {self.version}"

    @property
    def runtime(self) -> str:
        """The runtime in rows, behind "onnxruntime"."""
        kind = {"wasm": "WebAssembly", "webgpu": "WebGPU in software"}[self.provider]
        return f"web {ONNXRUNTIME_WEB.version}, {kind}, {self.source}"

    def identify(self) -> MachineIdentity:
        """Describes this machine, with the runtime of the browser."""
        # Its kernels are WebAssembly's, whatever the processor has.
        return host.identity().model_copy(
            update={"onnxruntime": self.runtime, "machine": "wasm32", "flags": []}
        )

    def describe_page(self) -> PageFacts:
        """Opens a page and returns what it can use."""
        state = JobState({}, {}, self.isolated)
        with serve(state) as address, chromium(self.program, CPU_ONLY) as page:
            page.open(address)
            facts = page.evaluate("describePage()", timeout_s=60)
        return PageFacts(bool(facts["isolated"]), int(facts["cores"]), str(facts["agent"])[:200])

    def webgpu_absence(self) -> str | None:
        """Returns why WebGPU in software does not start; None if it does."""
        state = JobState({}, {}, self.isolated)
        with serve(state) as address, chromium(self.program, _SOFTWARE_GPU) as page:
            page.open(address)
            answer = page.evaluate("describeWebGpu()", timeout_s=60)
        absent = answer.get("absent")
        return None if absent is None else str(absent)[:200]

    def time_texts(
        self, folder: Path, texts: Mapping[int, Sequence[str]], *, warmup: int, calls: int
    ) -> dict[int, list[float]]:
        """Times the JavaScript tokenizer of an export in a page.

        Args:
            folder: The export.
            texts: Name of a group → its texts, which take turns.
            warmup: Untimed calls of each group.
            calls: Timed calls of each group.
        Returns:
            Group → milliseconds of each call of one text.
        Raises:
            TargetError: The browser or the tokenizer failed.
        """
        library = package_files(TOKENIZERS, [TOKENIZER_LIBRARY])[TOKENIZER_LIBRARY]
        files = {f"tokenizer/{name}": folder / name for name in PAGE_TOKENIZER_FILES}
        files[f"lib/{Path(TOKENIZER_LIBRARY).name}"] = library
        state = JobState(files, {"texts.json": json.dumps(texts)}, self.isolated)
        script = "import('./tokens.mjs').then(({ timeTexts }) => "
        script += f"timeTexts({json.dumps({'warmup': warmup, 'calls': calls})}))"
        with serve(state) as address, chromium(self.program, CPU_ONLY) as page:
            page.open(address)
            samples = page.evaluate(script, timeout_s=_TOKENS_TIMEOUT_S)
        return {int(name): times for name, times in samples.items()}

    def run(self, job: Job, files: Mapping[str, Path], *, outputs_to: Path | None = None) -> Reply:
        """Runs a job in a page of its own."""
        unsupported = [phase for phase in job.phases if phase not in _PHASES]
        if unsupported:
            raise InputError(f"a browser cannot do the phase '{unsupported[0]}' of a job")
        state = self._job_state(job, files)
        functions = runpy.run_path(str(RUNNER))
        before = functions["read_condition"]()
        arguments = CPU_ONLY if self.provider == "wasm" else _SOFTWARE_GPU
        reply: dict[str, Any] = {"format": 1, "ok": True, "runner_sha256": _page_sha256()}
        with serve(state) as address, chromium(self.program, arguments) as page:
            try:
                reply.update(self._run_in_page(page, address, state, job, files))
            except TargetError as error:
                reply |= {"ok": False, "error": _failure(error, state.phase)}
        reply |= {
            "phase": state.phase if not reply["ok"] else "done",
            "identity": self.identify().model_dump(by_alias=True),
            "before": before,
            "after": functions["read_condition"](),
            "other_load": sum(state.loads) / len(state.loads) if state.loads else None,
        }
        if outputs_to is not None and job.outputs is not None and reply["ok"]:
            with outputs_to.open("wb") as file:
                np.savez(file, **state.outputs)
            digest = sha256_file(outputs_to)
            count = len(state.outputs)
            reply["outputs"] = {"file": job.outputs, "sha256": digest, "arrays": count}
        return parse_reply(json.dumps(reply).encode(), source=self.source, clean=True)

    def _run_in_page(
        self,
        page: Page,
        address: str,
        state: JobState,
        job: Job,
        files: Mapping[str, Path],
    ) -> dict[str, Any]:
        state.counters = PageCounters(page.group)
        page.open(address)
        module, _ = _RUNTIMES[self.provider]
        options = {
            "runtime": module,
            "executionProvider": self.provider,
            "files": {label: _graph_files(m.file, files) for label, m in job.models.items()},
        }
        script = f"runJob({job.to_json()}, {json.dumps(options)})"
        timeout = job.timeout_seconds or _DEFAULT_TIMEOUT_S
        answer: dict[str, Any] = page.evaluate(script, timeout_s=timeout)
        heaps = answer.pop("heaps")
        answer["conditions"] = _conditions(self, state.downloaded, heaps, job)
        return answer

    def _job_state(self, job: Job, files: Mapping[str, Path]) -> JobState:
        module, names = _RUNTIMES[self.provider]
        packaged = package_files(ONNXRUNTIME_WEB, [f"dist/{name}" for name in (module, *names)])
        served = {f"lib/{Path(name).name}": path for name, path in packaged.items()}
        served |= {f"files/{name}": path for name, path in files.items()}
        inputs = _inputs_json(files[job.inputs])
        return JobState(served, {"inputs.json": inputs}, self.isolated)


def _inputs_json(path: Path) -> str:
    """Returns the inputs of a job as JSON: key → input → shape and values."""
    read_feeds = runpy.run_path(str(RUNNER))["read_feeds"]
    with np.load(path, allow_pickle=False) as archive:
        feeds = read_feeds(archive)
    described: dict[str, dict[str, Any]] = {}
    for key, arrays in feeds.items():
        described[key] = {}
        for name, array in arrays.items():
            described[key][name] = {"shape": list(array.shape), "values": array.ravel().tolist()}
    return json.dumps(described)


def _graph_files(graph: str, files: Mapping[str, Path]) -> list[str]:
    """Returns a graph and its external data, which is in the same folder of the job."""
    folder = graph.rpartition("/")[0]
    others = [
        name
        for name in files
        if name != graph
        and name.rpartition("/")[0] == folder
        and not name.endswith((".npz", ".onnx"))
    ]
    return [graph, *sorted(others)]


def _conditions(
    target: BrowserTarget, transferred: int, heaps: Mapping[str, int | None], job: Job
) -> dict[str, str]:
    """Describes what a page used, in words."""
    conditions = {
        "browser": target.source,
        "kernels": "WebAssembly SIMD" if target.provider == "wasm" else "WebGPU in software",
        "wasm heap": f"{mebibytes(heaps['wasm'] or 0)} MiB",
        "downloaded": f"{mebibytes(transferred)} MiB",
        "page threads": _threads_in_words(target, job),
    }
    scripts = heaps["js"]
    if scripts is not None:
        conditions["js heap"] = f"{mebibytes(scripts)} MiB"
    return conditions


def _threads_in_words(target: BrowserTarget, job: Job) -> str:
    if not target.isolated:
        return "off: crossOriginIsolated is false, because the server does not send its headers"
    return f"{job.threads}, in shared memory (crossOriginIsolated)"


def _failure(error: TargetError, phase: str) -> dict[str, Any]:
    out_of_memory = any(
        word in error.message for word in ("crashed", "Aborted", "memory", "Array buf")
    )
    kind = "memory" if out_of_memory else "exception"
    if "in time" in error.message:
        kind = "timeout"
    return {"kind": kind, "phase": phase, "message": error.message}


def _page_sha256() -> str:
    """Digest of the page's program."""
    return sha256_file(Path(__file__).with_name("page") / "worker.mjs")
