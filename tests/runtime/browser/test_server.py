"""The server of a page: loopback, below a random path, with the headers of threads."""

from __future__ import annotations

import http.client
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from edgedistil.runtime.browser.server import JobState, serve


def request(
    address: str, path: str, *, body: bytes | None = None, host: str | None = None
) -> tuple[int, dict[str, str], bytes]:
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port)
    headers = {} if host is None else {"Host": host}
    connection.request("GET" if body is None else "POST", path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, {key.lower(): value for key, value in answer.getheaders()}, content


def below(address: str, name: str) -> str:
    return urlsplit(address).path.replace("index.html", name)


def state(tmp_path: Path, *, isolated: bool = True) -> JobState:
    (tmp_path / "a.onnx").write_bytes(b"abc")
    return JobState({"files/m/a.onnx": tmp_path / "a.onnx"}, {"inputs.json": "{}"}, isolated)


@pytest.mark.parametrize("isolated", [True, False])
def test_files_have_the_headers_that_threads_need(tmp_path: Path, isolated: bool) -> None:
    served = state(tmp_path, isolated=isolated)
    with serve(served) as address:
        status, headers, content = request(address, below(address, "files/m/a.onnx"))
        page = request(address, urlsplit(address).path)
    assert (status, content) == (200, b"abc")
    assert ("cross-origin-embedder-policy" in headers) == isolated
    assert page[1]["content-type"] == "text/html; charset=utf-8"
    assert served.downloaded == 3


def test_other_paths_and_other_sites_get_nothing(tmp_path: Path) -> None:
    with serve(state(tmp_path)) as address:
        path = below(address, "files/m/a.onnx")
        assert request(address, "/")[0] == 404
        assert request(address, "/files/m/a.onnx")[0] == 404
        assert request(address, below(address, "files/../job.mjs"))[0] == 404
        assert request(address, path, host="evil.example")[0] == 404
        assert request(address, below(address, "unknown"), body=b"")[0] == 404
    assert urlsplit(address).hostname == "127.0.0.1"
    assert len(urlsplit(address).path.split("/")[1]) >= 32


def test_outputs_and_phases_are_taken(tmp_path: Path) -> None:
    served = state(tmp_path)
    values = np.arange(6, dtype=np.float32)
    with serve(served) as address:
        query = below(address, "outputs?name=a%2Fk%2Fy&shape=2%2C3")
        assert request(address, query, body=values.tobytes())[0] == 200
        assert request(address, below(address, "phase"), body=b"load a")[0] == 200
    np.testing.assert_array_equal(served.outputs["a/k/y"], values.reshape(2, 3))
    assert served.phase == "load a"


def test_a_request_that_fails_is_answered_with_the_reason(tmp_path: Path) -> None:
    with serve(state(tmp_path)) as address:
        query = below(address, "outputs?name=y&shape=2%2C3")
        status, _, content = request(address, query, body=bytes(4))
    assert status == 500
    assert content == b"ValueError: cannot reshape array of size 1 into shape (2,3)"


def test_two_servers_have_different_addresses(tmp_path: Path) -> None:
    with serve(state(tmp_path)) as first, serve(state(tmp_path)) as second:
        assert urlsplit(first).path != urlsplit(second).path
