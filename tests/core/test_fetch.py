"""Downloads through pip, the hub and URLs without a network, refused weights, and locks."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedistil.core import fetch
from edgedistil.core.errors import ChecksumError, ModelError, OfflineError, StorageError
from edgedistil.core.fetch import PinnedPackage


@pytest.fixture
def local_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from, instead of the network."""
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def wheel_in(folder: Path) -> Path:
    path = folder / "zzz_demo-1.0-py3-none-any.whl"
    info = "zzz_demo-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("zzz_demo.txt", "text")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: zzz-demo\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


def pin(sha256: str) -> PinnedPackage:
    return PinnedPackage(
        package="zzz-demo", version="1.0", sha256=sha256, file="zzz_demo-1.0-py3-none-any.whl"
    )


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- pip -----------------------------------------------------------------------------------------


def test_pip_download_brings_the_pinned_file(local_index: Path, tmp_path: Path) -> None:
    wheel = wheel_in(local_index)
    path = fetch.pip_download(pin(digest(wheel)), tmp_path / "cache")
    assert path == tmp_path / "cache" / wheel.name
    assert path.read_bytes() == wheel.read_bytes()
    assert [file.name for file in (tmp_path / "cache").iterdir()] == [wheel.name]


def test_another_file_under_the_same_version_is_refused(local_index: Path, tmp_path: Path) -> None:
    wheel = wheel_in(local_index)
    with pytest.raises(ChecksumError, match=r"has another file for PyPI zzz-demo 1\.0") as caught:
        fetch.pip_download(pin("0" * 64), tmp_path / "cache")
    assert digest(wheel) in caught.value.message
    assert not (tmp_path / "cache").exists()


def test_without_the_package_the_error_names_file_digest_and_folder(
    local_index: Path, tmp_path: Path
) -> None:
    with pytest.raises(OfflineError, match=r"cannot download PyPI zzz-demo 1\.0") as caught:
        fetch.pip_download(pin("a" * 64), tmp_path / "cache")
    for part in ("zzz_demo-1.0-py3-none-any.whl", "a" * 64, str(tmp_path / "cache")):
        assert part in str(caught.value.hint)
    assert list(tmp_path.glob(".fetch.*")) == []


@pytest.mark.parametrize(
    ("retries", "reason"),
    [
        ("1", "index cannot be reached: Connection refused"),
        ("0", "index does not have it, or cannot be reached"),
    ],
)
def test_without_a_network_the_error_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retries: str, reason: str
) -> None:
    # Nothing listens there.
    for name, value in {"INDEX_URL": "http://127.0.0.1:9/simple", "RETRIES": retries}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(OfflineError, match=f"{reason}\n"):
        fetch.pip_download(pin("a" * 64), tmp_path / "cache")


def test_without_pip_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(OfflineError, match="pip is not installed in this environment") as caught:
        fetch.pip_download(pin("a" * 64), tmp_path)
    assert "install pip, or put" in str(caught.value.hint)


def test_a_source_distribution_is_checked_by_pip_before_its_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        requirements.append(Path(command[-1]).read_text())
        return subprocess.CompletedProcess(command, 1, "", "no network\n")

    requirements: list[str] = []
    monkeypatch.setattr(fetch.subprocess, "run", run)
    sdist = PinnedPackage(
        package="x", version="2", sha256="b" * 64, file="x-2.tar.gz", sdist=True, pip_flags=("-v",)
    )
    with pytest.raises(OfflineError, match="cannot download PyPI x 2: no network"):
        fetch.pip_download(sdist, tmp_path)
    assert "--no-binary=:all:" in commands[0] and "-v" in commands[0]
    assert requirements == [f"x==2 --hash=sha256:{'b' * 64}\n"]


def test_a_corrupt_cached_file_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "x.whl"
    path.write_bytes(b"x")
    fetch.check_sha256(path, pin(digest(path)))
    with pytest.raises(ChecksumError, match=f"expected sha256 {'c' * 64}, got {digest(path)}"):
        fetch.check_sha256(path, pin("c" * 64))
    assert not path.exists()


# --- models --------------------------------------------------------------------------------------


def test_a_folder_is_returned_as_it_is(tmp_path: Path) -> None:
    assert fetch.find_model_folder(str(tmp_path)) == tmp_path


def test_a_pipe_in_a_model_folder_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "missing")
    assert fetch.find_model_folder(str(tmp_path)) == tmp_path
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ModelError, match=r"config\.json: it is a named pipe; expected a regular"):
        fetch.find_model_folder(str(tmp_path))


def test_a_hub_cache_that_cannot_be_written_names_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_kwargs: object) -> str:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(StorageError, match=r"cannot write the cache(.|\n)*set HF_HOME"):
        fetch.hub_snapshot("a/b")


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere", "a/b/c", "~/nowhere", "a b"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused(source: str) -> None:
    with pytest.raises(ModelError, match="no such folder, and not a valid hub id"):
        fetch.find_model_folder(source)


# The files of a model with modules, one in a subfolder, and what is never downloaded.
HUB_FILES = {
    "config.json",
    "modules.json",
    "README.md",
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "2_Dense/model.safetensors",
    "0_Transformer/config.json",
    "0_Transformer/vocab.txt",
    "0_Transformer/tokenizer.json",
    "0_Transformer/added_tokens.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
}
UNUSED_HUB_FILES = {
    "pytorch_model.bin",
    "model_head.pkl",
    "own.py",
    "onnx/model.onnx",
    "tf_model.h5",
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as a download needs; the content of a file is its name."""

    def log_message(self, *_: object) -> None:
        """Prints nothing."""

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        path = self.path.split("?")[0]
        names = sorted(HUB_FILES | UNUSED_HUB_FILES)
        if path.startswith("/api/models/"):
            tree = [{"type": "file", "path": name, "size": len(name), "oid": "0"} for name in names]
            siblings = [{"rfilename": name} for name in names]
            model = {"id": "acme/small", "sha": COMMIT, "siblings": siblings, "tags": []}
            data = json.dumps(tree if "/tree/" in path else model).encode()
            self.send(data, {"Content-Type": "application/json"}, with_body=with_body)
            return
        name = path.split("/resolve/")[-1].split("/", 1)[-1]
        etag = hashlib.sha1(name.encode()).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
        self.send(name.encode(), headers, with_body=with_body)

    def send(self, data: bytes, headers: dict[str, str], *, with_body: bool) -> None:
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(data)


def test_everything_that_a_package_is_made_of_is_downloaded(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
        }
        # In a process of its own: the library reads its variables when it is imported.
        code = "from edgedistil.core.fetch import hub_snapshot; print(hub_snapshot('acme/small'))"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        server.shutdown()
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip().splitlines()[-1])
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == HUB_FILES
    assert all((folder / name).read_text() == name for name in names)


def test_the_hub_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        OfflineError, match="cannot download model 'someone/no-such-bert'"
    ) as caught:
        fetch.find_model_folder("someone/no-such-bert", revision="v1")
    assert "model.safetensors" in str(caught.value.hint)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"])
def test_weights_that_may_run_code_are_refused_by_name(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"weights{suffix}").touch()
    with pytest.raises(ModelError, match=f"no weights in safetensors, only weights{suffix}"):
        fetch.require_safetensors(tmp_path)
    (tmp_path / "model.safetensors").touch()
    fetch.require_safetensors(tmp_path)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no weights in safetensors\n.*model.safetensors"):
        fetch.require_safetensors(tmp_path)


@pytest.mark.parametrize(("name", "hint"), [("q4.gguf", "llama.cpp"), ("m.onnx", "exported")])
def test_weights_for_other_programs_are_named(name: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ModelError, match=f"only {name}") as caught:
        fetch.require_safetensors(tmp_path)
    assert hint in str(caught.value.hint)
    assert "pickle" not in str(caught.value.hint)


# --- URLs ----------------------------------------------------------------------------------------


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "text.txt").write_text("text")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            served = str(tmp_path / "served")
            super().__init__(*arguments, directory=served)  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            """Keeps the test's output clean."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/text.txt"
        server.shutdown()


def test_a_url_is_downloaded_to_a_file(url: str, tmp_path: Path) -> None:
    fetch.download_url(url, tmp_path / "cache" / "text.txt")
    assert (tmp_path / "cache" / "text.txt").read_text() == "text"


def test_a_url_that_fails_leaves_no_file(url: str, tmp_path: Path) -> None:
    with pytest.raises(OfflineError, match=r"cannot download .*/other\.txt: ") as caught:
        fetch.download_url(url.replace("text.txt", "other.txt"), tmp_path / "cache" / "x")
    assert f"save it as {tmp_path / 'cache' / 'x'}" in str(caught.value.hint)
    assert not (tmp_path / "cache" / "x").exists()


# --- locks ---------------------------------------------------------------------------------------


_HOLDER = """
import sys, time
from pathlib import Path
from edgedistil.core.fetch import file_lock
with file_lock(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_exclusive_and_freed_when_its_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.lock"
    command = [sys.executable, "-c", _HOLDER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(BlockingIOError), fetch.file_lock(path, wait=False):
            pass
        holder.kill()
    with fetch.file_lock(path, wait=False):
        pass


def test_a_lock_file_is_removed_with_the_lock(tmp_path: Path) -> None:
    path = tmp_path / ".x.lock"
    with fetch.file_lock(path, wait=False):
        assert path.is_file()
    assert list(tmp_path.iterdir()) == []
    # A file that a killed holder left does not prevent the next one.
    path.touch()
    with (
        fetch.file_lock(path, wait=False),
        pytest.raises(BlockingIOError),
        fetch.file_lock(path, wait=False),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


_COUNTER = """
import sys
from pathlib import Path
from edgedistil.core.fetch import file_lock
folder = Path(sys.argv[1])
for _ in range(100):
    with file_lock(folder / "x.lock"):
        # Two holders at a time would lose counts, and the second one could not make the folder.
        (folder / "held").mkdir()
        count = int((folder / "count").read_text())
        (folder / "count").write_text(str(count + 1))
        (folder / "held").rmdir()
"""


def test_processes_that_remove_the_lock_file_never_hold_it_together(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    command = [sys.executable, "-c", _COUNTER, str(tmp_path)]
    workers = [subprocess.Popen(command) for _ in range(3)]
    assert [worker.wait(60) for worker in workers] == [0] * 3
    assert (tmp_path / "count").read_text() == "300"
    assert not (tmp_path / "x.lock").exists()


def test_cache_lock_puts_its_file_next_to_the_folder(tmp_path: Path) -> None:
    with fetch.cache_lock(tmp_path / "corpus" / "key"):
        assert [file.name for file in (tmp_path / "corpus").iterdir()] == ["key.lock"]


def test_a_lock_that_cannot_be_created_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "made"
    with pytest.raises(StorageError, match=r"made\.lock"), fetch.cache_lock(folder):
        pass
