"""Texts: `--text`, and the sources of a corpus."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from tests.stress.case import DONE, INPUT, Case, Prepare
from tests.stress.files import DAMAGES, TEXT_DAMAGES, both, copies, damages, writes
from tests.stress.values import ESCAPE, LONG
from tests.stress.world import STUDENT_GRAPH, VECTORS, World, sentences

GROUP = "texts"
_LINES = "\n".join(sentences(200, seed=9)) + "\n"
_TEXTS: dict[str, str | bytes] = {
    "empty": b"",
    "blank lines": "\n\n \n",
    "not UTF-8": b"the b\xffat left\n" * 50,
    "utf-16": _LINES.encode("utf-16"),
    "nul": _LINES.encode() + b"\0\0\0\n",
    "one word": "boat\n",
    "one line": "the boat left the harbour.\n",
    "escapes": f"{ESCAPE} the boat\n" * 100,
    "direction": "the \u202eboat\u202c left\n" * 100,
    "combining": "a" + "\u0301" * 3000 + "\n",
    "no blanks": "x" * 200_000 + "\n",
    "line of 2 MB": "boat " * 400_000 + "\n",
    "only unknown letters": "\u6c34\u706b\u6728 \u91d1\u571f\n" * 100,
    "emoji": "\U0001f600 \U0001f601\n" * 100,
    "carriage returns": _LINES.replace("\n", "\r\n"),
    "old line ends": _LINES.replace("\n", "\r"),
    "line separators": _LINES.replace("\n", "\u2028"),
    "special tokens": "[MASK] [CLS] [SEP] [PAD]\n" * 100,
    "byte order mark": b"\xef\xbb\xbf" + _LINES.encode(),
    "cut character": _LINES.encode() + "\u20ac".encode()[:2],
    "binary": bytes(range(256)) * 200,
}
_JSONL: dict[str, str | bytes] = {
    "not JSON": "{text}\n",
    "list": "[1]\n",
    "number": "1\n",
    "other key": '{"body": "x"}\n',
    "text is a list": '{"text": ["x"]}\n',
    "text is null": '{"text": null}\n',
    "lone surrogate": '{"text": "the \\ud800 boat"}\n',
    "deep": "[" * 100_000 + "\n",
    "endless integer": '{"text": ' + "9" * 5000 + "}\n",
    "cut": '{"text": "the boat',
    "not UTF-8": b'{"text": "\xff"}\n',
    "key with escapes": json.dumps({ESCAPE: "x"}) + "\n",
    "long key": json.dumps({LONG: "x"}) + "\n",
    "10,000 keys": json.dumps({f"k{i}": "x" for i in range(10_000)}) + "\n",
}
# Columns of a parquet file of vectors, as pyarrow takes them.
_VECTORS: dict[str, dict[str, list[Any]]] = {
    "null vector": {"text": ["the boat"], "vector": [None]},
    "null among vectors": {"text": ["the boat", "x"], "vector": [[1.0, 2.0], None]},
    "null text": {"text": [None], "vector": [[1.0, 2.0]]},
    "numbers": {"text": ["the boat"], "vector": [1.0]},
    "strings": {"text": ["the boat"], "vector": ["1.0"]},
    "lists of strings": {"text": ["the boat"], "vector": [["1.0"]]},
    "lists of lists": {"text": ["the boat"], "vector": [[[1.0]]]},
    "empty lists": {"text": ["the boat"], "vector": [[]]},
    "objects": {"text": ["the boat"], "vector": [{"a": 1.0}]},
    "texts are numbers": {"text": [1], "vector": [[1.0]]},
    "no vectors": {"text": ["the boat"]},
    "no texts": {"vector": [[1.0]]},
    "no rows": {"text": [], "vector": []},
}
# Texts that have nothing to compare outputs on.
_TOO_LITTLE = {"empty", "blank lines"}
_SOUND = {"one word", "one line", "carriage returns", "byte order mark", "emoji"}
_REFUSED = _TOO_LITTLE | {"not UTF-8", "utf-16", "cut character", "binary"}


def cases(world: World, random: Random) -> Iterator[Case]:
    """Yields the cases of this group."""
    model = copies(world, "teacher")
    export = ("export", "--model", "teacher", "--quantize", "fp32", "--text")
    profile = ("profile", "--model", STUDENT_GRAPH, "--device", "rpi4", "--length", "8", "--text")
    for name, content in _TEXTS.items():
        codes = (INPUT,) if name in _REFUSED else (DONE, INPUT)
        text = writes({"in.txt": content})
        yield Case(GROUP, f"export {name}", (*export, "in.txt"), codes, both(model, text))
        run = both(copies(world, "runs"), text)
        yield Case(GROUP, f"profile {name}", (*profile, "in.txt"), codes, run)
        yield _corpus(world, f"corpus {name}", "in.txt", text, codes)
        embed = ("embed", "--model", VECTORS, "--out", "x.npy", "in.txt")
        codes = (DONE,) if name in _SOUND else (DONE, INPUT)
        vectors = both(copies(world, VECTORS), text)
        yield Case(GROUP, f"embed {name}", embed, codes, vectors)
    for name, path in {
        "missing": "nope.txt",
        "folder": "teacher",
        "device": "/dev/zero",
        "random": "/dev/urandom",
        "empty": "",
        "long": LONG,
        "home": "~no-user/x.txt",
        "escape": ESCAPE,
        "url": "http://[::1/x.txt",
    }.items():
        yield Case(GROUP, f"path {name}", (*export, path), (INPUT,), model)
        yield _corpus(world, f"corpus path {name}", path, model, (INPUT,))
        # A word that is not a file is a text.
        embed = ("embed", "--model", VECTORS, "--out", "x.npy", "--", path)
        vectors = copies(world, VECTORS, "teacher")
        yield Case(GROUP, f"embed path {name}", embed, (DONE, INPUT), vectors)
    for name in (
        "http://host name/x.txt",
        "http://127.0.0.1:1/x.txt",
        "http://x\ny/z.txt",
        "ftp://127.0.0.1/x.txt",
        "https://127.0.0.1:1/x.jsonl.gz",
        "file:///etc/passwd",
        "*.nope",
        "[",
        "**/**/**/*.txt" * 20,
        "in.csv",
        "in.txt.bz2",
        "in.parquet.gz",
    ):
        text = writes({"in.csv": "x", "in.txt.bz2": b"x", "in.parquet.gz": b"x"})
        yield _corpus(world, f"source {name[:40]!r}", name, text, (INPUT,))
    for path in ("pipe.txt", "pipe.jsonl", "pipe.txt.gz", "pipe.parquet"):
        pipe = _pipe(path)
        yield _corpus(world, f"corpus {path}", path, pipe, (INPUT,))
    embed = ("embed", "--model", VECTORS, "pipe.txt")
    vectors = both(copies(world, VECTORS), _pipe("pipe.txt"))
    yield Case(GROUP, "embed pipe", embed, (INPUT,), vectors)
    embed = ("embed", "--model", VECTORS, os.fsdecode(b"the b\xffat"))
    yield Case(GROUP, "embed not UTF-8 word", embed, (INPUT,), copies(world, VECTORS))
    yield Case(
        GROUP, "export pipe", (*export, "pipe.txt"), (INPUT,), both(model, _pipe("pipe.txt"))
    )
    yield from _formats(world)
    yield from _vectors(world)
    for name, bomb in (("bomb.txt.gz", _gzip_bomb), ("bomb.txt.zst", _zstd_bomb)):
        yield _corpus(world, name, name, _written_late(name, bomb), (INPUT,))
    # A cached corpus that was damaged is made again, or refused.
    yield from _damaged_caches(world)


def _corpus(
    world: World, name: str, files: str, step: Prepare, codes: tuple[int, ...], *more: str
) -> Case:
    """Returns a distillation on one source."""
    inputs = copies(world, "recipe.toml", "teacher", "corpus.txt")
    source = f"corpus.sources=[{{files={json.dumps(files, ensure_ascii=True)}}}]"
    arguments = ("distill", "recipe.toml", "--set", source, *more)
    return Case(GROUP, name, arguments, codes, both(inputs, step))


def _formats(world: World) -> Iterator[Case]:
    for name, content in _JSONL.items():
        step = writes({"in.jsonl": content})
        yield _corpus(world, f"jsonl {name}", "in.jsonl", step, (INPUT,))
    plain = _LINES.encode()
    packed = {"in.txt.gz": gzip.compress(plain, mtime=0), "in.txt.zst": _zstd(plain)}
    for file, content in packed.items():
        for name, damage in DAMAGES.items():
            step = both(writes({file: content}), damages(file, damage))
            codes = (DONE, INPUT) if name in ("bits", "noise") else (INPUT,)
            yield _corpus(world, f"{file} {name}", file, step, codes)
    for name, damage in DAMAGES.items():
        for number in range(3 if name == "bits" else 1):
            step = both(_parquet({"text": _LINES.splitlines()}), damages("in.parquet", damage))
            yield _corpus(world, f"parquet {name} {number}", "in.parquet", step, (DONE, INPUT))
    for name, damage in TEXT_DAMAGES.items():
        step = both(writes({"in.txt": _LINES}), damages("in.txt", damage))
        yield _corpus(world, f"text {name}", "in.txt", step, (DONE, INPUT))


def _vectors(world: World) -> Iterator[Case]:
    """Yields distillations from files of vectors."""
    inputs = copies(world, "recipe.toml", "teacher", "corpus.txt")
    arguments = ("distill", "recipe.toml", "--set", 'objective.kind="representation"')
    arguments += ("--set", "objective.states=0", "--set", 'teacher.answers="in.parquet"')
    for name, columns in _VECTORS.items():
        step = both(inputs, _parquet(columns))
        yield Case(GROUP, f"vectors {name}", arguments, (INPUT,), step, ("in.parquet",))
    for name, damage in DAMAGES.items():
        step = both(inputs, _parquet(_VECTORS["null among vectors"]), damages("in.parquet", damage))
        yield Case(GROUP, f"vectors {name}", arguments, (INPUT,), step, ("in.parquet",))


def _damaged_caches(world: World) -> Iterator[Case]:
    """Yields damage to every file of the corpus cache, which the second distillation reads."""
    folder = next((world.path / "cache" / "corpus").glob("*/train")).parent
    files = sorted(path.relative_to(world.path) for path in folder.rglob("*") if path.is_file())
    inputs = copies(world, "recipe.toml", "teacher", "corpus.txt", "cache")
    for file in files:
        for name in ("bits", "cut", "empty"):
            step = both(inputs, damages(str(file), DAMAGES[name]))
            arguments = ("distill", "recipe.toml")
            environment = {"EDGEDISTIL_CACHE": "{work}/cache"}
            label = f"cache {file.relative_to(folder.relative_to(world.path))} {name}"
            yield Case(GROUP, label, arguments, (DONE,), step, environment=environment)


def _pipe(name: str) -> Prepare:
    return lambda work, _random: os.mkfifo(work / name)


def _written_late(name: str, content: Callable[[], bytes]) -> Prepare:
    """Returns a step that computes a file's content only when its case runs."""
    return lambda work, _random: (work / name).write_bytes(content()) and None


def _gzip_bomb() -> bytes:
    """Returns 2 MB that decompress to 2 GB of one line."""
    block = gzip.compress(bytes(64 * 2**20).replace(b"\0", b"a"), mtime=0)
    return block * 32


def _zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(data)


def _zstd_bomb() -> bytes:
    return _zstd(b"a" * (64 * 2**20)) * 32


def _parquet(columns: dict[str, list[Any]]) -> Prepare:
    """Returns a step that writes in.parquet."""

    def prepare(work: Path, _random: Random) -> None:
        # In a process of its own: pyarrow starts threads, and the warm process has to have none.
        script = (
            "import json, sys, pyarrow as pa, pyarrow.parquet as pq;"
            "pq.write_table(pa.table(json.load(sys.stdin)), 'in.parquet')"
        )
        data = json.dumps(columns).encode()
        subprocess.run([sys.executable, "-c", script], input=data, cwd=work, check=True)

    return prepare
