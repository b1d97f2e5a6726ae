"""The server of one job's page: on loopback, on a random port, below a random path."""

from __future__ import annotations

import json
import secrets
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from edgedistil.runtime.browser.counters import PageCounters
from edgedistil.runtime.reply import MAX_REPLY_BYTES

_PAGE = Path(__file__).with_name("page")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
}
# Names of phases, and outputs of some text: a page that sends more is not ours.
_MAX_PHASE = 1000
_HOST = "127.0.0.1"
# Pause between two looks at the load before the timed calls.
_LOAD_INTERVAL_S = 0.02


class JobState:
    """What a page is given, and what it sends back.

    Attributes:
        files: Path below the job's own → file.
        texts: Path → JSON text.
        isolated: Whether the headers are sent that threads need.
        counters: Counts of the page's processes; None until the browser runs.
        phase: Where the page is.
        outputs: LABEL/KEY/OUTPUT → array.
        loads: Other runnable tasks, at several moments before the first timed call.
        downloaded: Bytes of runtime and models that the page has fetched.
        is_timed: Whether all timed calls are over.
    """

    def __init__(self, files: Mapping[str, Path], texts: Mapping[str, str], isolated: bool) -> None:
        self.files = {**_page_files(), **files}
        self.texts = dict(texts)
        self.isolated = isolated
        self.counters: PageCounters | None = None
        self.phase = "start"
        self.outputs: dict[str, Any] = {}
        self.loads: list[int] = []
        self.downloaded = 0
        self.is_timed = threading.Event()

    def enter(self, phase: str) -> None:
        """Notes a phase; the load is read while the warm-up of the first series runs."""
        if phase.startswith(("steady", "alternate")) and not self.loads and self.counters:
            threading.Thread(target=self._read_loads, args=(self.counters,), daemon=True).start()
        self.phase = phase

    def _read_loads(self, counters: PageCounters) -> None:
        pause = threading.Event()
        for _ in range(5):
            pause.wait(_LOAD_INTERVAL_S)
            tasks = counters.other_tasks()
            if tasks is not None:
                self.loads.append(tasks)


def _page_files() -> dict[str, Path]:
    return {path.name: path for path in _PAGE.iterdir() if path.suffix in _TYPES}


@contextmanager
def serve(state: JobState) -> Iterator[str]:
    """Serves a job; yields the address of its page.

    Args:
        state: Files and texts of the job.
    """
    token = secrets.token_urlsafe(24)
    handler = partial(_Handler, state, token)
    with _Server((_HOST, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://{_HOST}:{server.server_port}/{token}/index.html"
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints what a request raised, except that the browser ended."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, state: JobState, token: str, *arguments: Any) -> None:
        self._state = state
        self._token = token
        super().__init__(*arguments)

    def log_message(self, *_arguments: Any) -> None:
        """Prints nothing."""

    def do_GET(self) -> None:
        """Sends a file or a text of the job."""
        name = self._name()
        if name in self._state.texts:
            self._send(self._state.texts[name].encode(), ".json")
        elif name in self._state.files:
            path = self._state.files[name]
            content = path.read_bytes()
            self._send(content, path.suffix)
            if "/" in name:
                self._state.downloaded += len(content)
        else:
            self._refuse()

    def do_POST(self) -> None:
        """Takes a phase or an output, and sends the counts."""
        name, size = self._name(), int(self.headers.get("Content-Length") or 0)
        if name is None or size > MAX_REPLY_BYTES:
            self._refuse()
            return
        body = self.rfile.read(size)
        try:
            self._answer(name, body)
        except ConnectionError:
            raise
        except Exception as error:
            # The page fails with this text, where a closed connection would be "Failed to fetch".
            reason = f"{type(error).__name__}: {error}"
            self._send(reason.encode(), ".txt", HTTPStatus.INTERNAL_SERVER_ERROR)

    def _answer(self, name: str, body: bytes) -> None:
        answer: Any = None
        if name == "counters" and self._state.counters is not None:
            answer = self._state.counters.read()
        elif name == "phase":
            self._state.enter(body.decode("utf-8", "replace")[:_MAX_PHASE])
        elif name == "timed":
            self._state.is_timed.set()
        elif name == "outputs":
            self._take_output(body)
        else:
            self._refuse()
            return
        self._send(json.dumps(answer).encode(), ".json")

    def _take_output(self, body: bytes) -> None:
        query = parse_qs(urlsplit(self.path).query)
        shape = [int(size) for size in query["shape"][0].split(",")]
        self._state.outputs[query["name"][0]] = np.frombuffer(body, np.float32).reshape(shape)

    def _name(self) -> str | None:
        """Returns the path below the token; None for a request that is not from our page."""
        # Another site's name may point here; its page has another host.
        host = f"{_HOST}:{self.connection.getsockname()[1]}"
        prefix = f"/{self._token}/"
        path = urlsplit(self.path).path
        if self.headers.get("Host") != host or not path.startswith(prefix):
            return None
        return path.removeprefix(prefix)

    def _send(self, content: bytes, suffix: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        self.send_header("Content-Type", _TYPES.get(suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        if self._state.isolated:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.end_headers()
        self.wfile.write(content)

    def _refuse(self) -> None:
        self.close_connection = True
        self.send_error(HTTPStatus.NOT_FOUND)
