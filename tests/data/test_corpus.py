"""A corpus is complete or missing, reproducible, split before training, and may exceed memory."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from edgedistil.core.errors import CorpusError, ModelError, StorageError
from edgedistil.core.recipe import SourceSpec
from edgedistil.core.rundir import tree_manifest
from edgedistil.data import corpus as module
from edgedistil.data.corpus import TokenizedCorpus
from edgedistil.data.heldout_split import document_hash
from edgedistil.data.tokenization import load_tokenizer
from tests.data.conftest import corpus_settings

Prepare = Callable[..., TokenizedCorpus]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LONG_WORDS = [letter * 500 for letter in "abcdefghijklm"]


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


@pytest.mark.parametrize("layout", ["packed", "lines"])
@pytest.mark.parametrize("workers", [1, 5])
def test_two_builds_give_identical_bytes(
    prepare: Prepare, text_file: Path, tmp_path: Path, layout: str, workers: int
) -> None:
    first = prepare(text_file, layout=layout, cache=tmp_path / "one", workers=2)
    second = prepare(text_file, layout=layout, cache=tmp_path / "two", workers=workers)
    assert first.folder != second.folder
    assert tree_manifest(first.folder) == tree_manifest(second.folder)


def test_the_record_counts_what_is_there(prepare: Prepare, text_file: Path) -> None:
    corpus = prepare(text_file, layout="lines", block_length=64)
    record = corpus.record
    lengths = corpus.train.row_lengths(np.arange(len(corpus.train)))
    assert record.train_tokens == corpus.train.tokens == int(lengths.sum())
    assert record.heldout_tokens == corpus.heldout.tokens > 0
    assert record.heldout_documents == len(lines_of(corpus.heldout_text)) == len(corpus.heldout)
    assert record.sources[0].documents == 211 == len(corpus.train) + len(corpus.heldout)
    assert record.sources[0].text_bytes == sum(len(line) for line in lines_of(text_file))
    assert record.cached_at == str(corpus.folder)
    ids = np.concatenate([corpus.train[row] for row in range(len(corpus.train))])
    assert corpus.token_counts_V.tolist() == np.bincount(ids, minlength=record.vocabulary).tolist()


def test_held_out_text_is_disjoint_from_training(
    prepare: Prepare, text_file: Path, tokenizer_folder: Path
) -> None:
    text_file.write_text(text_file.read_text() * 2)  # each line has a copy
    corpus = prepare(text_file, layout="lines", block_length=64)
    tokenizer = load_tokenizer(tokenizer_folder)
    training = {tokenizer.decode(corpus.train[row].tolist()) for row in range(len(corpus.train))}
    held = lines_of(corpus.heldout_text)
    assert 211 * 0.1 < len(held) < 211 * 0.3
    assert training & set(held) == set()
    assert training | set(held) == set(lines_of(text_file))


def test_the_split_does_not_depend_on_the_order_of_sources(
    prepare: Prepare, tmp_path: Path, text_file: Path
) -> None:
    lines = lines_of(text_file)
    for name, part in (("x", lines[:100]), ("y", lines[100:])):
        (tmp_path / f"{name}.txt").write_text("\n".join(part))
    one = prepare(tmp_path / "x.txt", tmp_path / "y.txt")
    other = prepare(tmp_path / "y.txt", tmp_path / "x.txt")
    assert one.folder != other.folder
    assert one.heldout_text.read_bytes() == other.heldout_text.read_bytes()
    assert tree_manifest(one.folder / "heldout") == tree_manifest(other.folder / "heldout")


def test_held_out_documents_are_capped_and_a_paragraph_is_a_line(
    prepare: Prepare, tmp_path: Path
) -> None:
    rows = [
        json.dumps({"text": f"w{n % 97:03d}\n w001\tw002 {'w003 ' * 20} w{n // 97:03d}"})
        for n in range(300)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    corpus = prepare(tmp_path / "a.jsonl", heldout_max_documents=5, heldout_share=0.5)
    held = lines_of(corpus.heldout_text)
    assert len(held) == corpus.record.heldout_documents == 5
    assert all(len(line.split()) == 24 for line in held)
    assert [document_hash(line) for line in held] == sorted(document_hash(line) for line in held)


# --- the cache -------------------------------------------------------------------------------


def test_a_second_run_reads_nothing_but_the_cache(
    prepare: Prepare, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(text_file)

    def refused(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("the sources were read again")

    monkeypatch.setattr(module, "read_documents", refused)
    second = prepare(text_file)
    assert second.record == first.record
    assert second.train[3].tolist() == first.train[3].tolist()
    with pytest.raises(AssertionError, match="read again"):
        prepare(text_file, block_length=19)


def test_a_cached_corpus_shows_the_licence_that_the_recipe_says_now(
    prepare: Prepare, text_file: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    first = prepare(text_file)
    assert first.record.sources[0].licence == "not stated"
    moved = text_file.rename(tmp_path / "moved.txt")
    settings = corpus_settings([SourceSpec(files=str(moved), licence="CC0")])
    again = module.prepare_corpus(settings, tokenizer_folder, cache=tmp_path / "cache")
    assert again.folder == first.folder
    assert (again.record.sources[0].licence, again.record.sources[0].origin) == ("CC0", str(moved))


@pytest.mark.parametrize(
    "changed",
    [
        {"layout": "lines"},
        {"block_length": 19},
        {"heldout_share": 0.3},
        {"heldout_max_documents": 3},
        {"on_bad_utf8": "replace"},
    ],
)
def test_another_setting_is_another_corpus(
    prepare: Prepare, text_file: Path, changed: dict[str, object]
) -> None:
    assert prepare(text_file).folder != prepare(text_file, **changed).folder


def test_changed_text_is_another_corpus(prepare: Prepare, text_file: Path) -> None:
    first = prepare(text_file)
    text_file.write_text(text_file.read_text().replace("w001", "w002"))
    assert prepare(text_file).folder != first.folder


def flip_one_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[:-7],
    "one bit": flip_one_bit,
    "zeros": lambda data: bytes(len(data)),
    "empty": lambda data: b"",
    "list": lambda data: b"[]",
    "object": lambda data: b"{}",
    "deep": lambda data: b"[" * 100_000,
}
CACHED_FILES = (
    "corpus.json",
    "heldout.txt",
    "token_counts.npy",
    "heldout/store.json",
    "train/by_bucket",
    "train/shard-00000.ends",
    "train/shard-00000.tokens",
    "train/store.json",
)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("victim", CACHED_FILES)
def test_a_damaged_cache_is_rebuilt(
    prepare: Prepare,
    text_file: Path,
    victim: str,
    damage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = prepare(text_file, layout="lines")
    intact = tree_manifest(first.folder)
    file = first.folder / victim
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    prepare(text_file, layout="lines")
    # A bit of corpus.json can be in a figure that nothing depends on.
    if (victim, damage) != ("corpus.json", "one bit"):
        assert tree_manifest(first.folder) == intact
        assert "is corrupt and will be rebuilt" in capsys.readouterr().err


def test_a_corpus_of_another_key_is_rebuilt(prepare: Prepare, text_file: Path) -> None:
    first = prepare(text_file)
    other = prepare(text_file, block_length=19)
    shutil.rmtree(first.folder)
    shutil.copytree(other.folder, first.folder)
    assert prepare(text_file).record.block_length == 17


def test_text_in_an_unknown_language_is_warned_of(
    prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.txt"
    path.write_text("\n".join(f"слово {n} один два три" for n in range(300)), encoding="utf-8")
    for _ in range(2):
        prepare(path)
    expected = r"\d\d% of the tokens of the corpus are unknown"
    assert len(re.findall(expected, capsys.readouterr().err)) == 1


_BUILD = """
import os, signal, sys
from pathlib import Path
from edgedistil.core import rundir
from edgedistil.data import corpus, token_store
from edgedistil.core.recipe import Corpus, SourceSpec

def die(*_args, **_kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

moment, text, tokenizer, cache = sys.argv[1:]
append = token_store.StoreWriter.append
written = []
def counting(self, ids, lengths):
    append(self, ids, lengths)
    written.append(len(lengths))
    if moment == "rows" and len(written) == 2:
        die()
token_store.StoreWriter.append = counting
if moment == "index":
    token_store.StoreWriter.close = die
if moment == "heldout":
    corpus._check_not_empty = die
if moment == "rename":
    replace = os.replace
    def replace_or_die(old, new):
        die() if Path(new).parent.name == "corpus" else replace(old, new)
    rundir.os.replace = replace_or_die
settings = Corpus(sources=[SourceSpec(files=text)], block_length=17, heldout_share=0.2,
                  heldout_max_documents=1000)
corpus.prepare_corpus(settings, Path(tokenizer), cache=Path(cache), workers=2)
"""


@pytest.mark.parametrize("moment", ["rows", "index", "heldout", "rename"])
def test_a_builder_that_is_killed_leaves_nothing_that_counts(
    prepare: Prepare, text_file: Path, tokenizer_folder: Path, tmp_path: Path, moment: str
) -> None:
    text_file.write_text(
        "\n".join(f"{line} w{n:03d}" for n in range(23) for line in lines_of(text_file))
    )
    expected = tree_manifest(prepare(text_file, cache=tmp_path / "undisturbed").folder)
    command = [
        sys.executable,
        "-c",
        _BUILD,
        moment,
        str(text_file),
        str(tokenizer_folder),
        str(tmp_path / "cache"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    corpora = tmp_path / "cache" / "corpus"
    remains = [path for path in corpora.iterdir() if path.is_dir()]
    assert remains
    assert all(path.name.startswith(".") for path in remains)  # nothing has a corpus's name
    corpus = prepare(text_file)
    assert tree_manifest(corpus.folder) == expected
    assert [path for path in corpora.iterdir() if path.is_dir()] == [corpus.folder]


def test_two_processes_build_it_once(
    prepare: Prepare, text_file: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-c",
        _BUILD,
        "never",
        str(text_file),
        str(tokenizer_folder),
        str(tmp_path / "cache"),
    ]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.communicate()[1].count("Traceback") == 0
        assert process.returncode == 0
    corpus = prepare(text_file)
    assert [p for p in (tmp_path / "cache" / "corpus").iterdir() if p.is_dir()] == [corpus.folder]


# --- larger than memory ----------------------------------------------------------------------

_FULL_DISK = """
import resource, sys
from pathlib import Path
from edgedistil.core.errors import StorageError
# Writing more fails as on a full disk.
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop()),) * 2)
sys.argv.insert(1, "never")
try:
    exec(BUILD)
except StorageError as error:
    print(error)
"""


@pytest.mark.parametrize("size", [1000, 20_000])
def test_a_full_disk_is_reported_and_leaves_nothing(
    text_file: Path, tokenizer_folder: Path, tmp_path: Path, size: int
) -> None:
    text_file.write_text(text_file.read_text() * 100)
    code = f"BUILD = {_BUILD!r}\n{_FULL_DISK}"
    command = [
        sys.executable,
        "-c",
        code,
        str(text_file),
        str(tokenizer_folder),
        str(tmp_path / "cache"),
        str(size),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "cannot write" in done.stdout and "File too large" in done.stdout
    assert "choose another folder" in done.stdout
    assert not [path for path in (tmp_path / "cache" / "corpus").iterdir() if path.is_dir()]


_LIMITED = """
import resource, sys
from pathlib import Path
from edgedistil.data.corpus import prepare_corpus
from edgedistil.core.recipe import Corpus, SourceSpec
import numpy, concurrent.futures.thread

how, text, tokenizer, cache, layout, headroom = sys.argv[1:]
status = open("/proc/self/status").read()
held = int(status.split("VmData:")[1].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (held + int(headroom),) * 2)
if how == "naive":
    documents = Path(text).read_text().splitlines()
else:
    settings = Corpus(sources=[SourceSpec(files=text)], layout=layout,
                      block_length=128, heldout_share=0.001,
                      heldout_max_documents=100)
    corpus = prepare_corpus(settings, Path(tokenizer), cache=Path(cache), workers=2)
    some = [len(corpus.train[row]) for row in range(0, len(corpus.train), 97)]
    print(len(corpus.train), corpus.train.tokens, sum(some))
"""


@pytest.fixture(scope="session")
def long_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 13 words of 500 letters: much text, few tokens, little time."""
    folder = tmp_path_factory.mktemp("long-words")
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *LONG_WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="RLIMIT_DATA counts mapped memory on Linux only"
)
@pytest.mark.parametrize(
    ("how", "layout"), [("ours", "packed"), ("ours", "lines"), ("naive", "lines")]
)
def test_a_corpus_larger_than_memory(
    long_words: Path, tmp_path: Path, how: str, layout: str
) -> None:
    headroom = 64 << 20
    path = tmp_path / "large.txt"
    with path.open("w") as file:
        for number in range(13_000):
            file.write(
                " ".join(LONG_WORDS[(number * 7 + word * word) % 13] for word in range(17))
                + f" {number}\n"
            )
    assert path.stat().st_size > 1.6 * headroom
    command = [
        sys.executable,
        "-c",
        _LIMITED,
        how,
        str(path),
        str(long_words),
        str(tmp_path / "cache"),
        layout,
    ]
    done = subprocess.run([*command, str(headroom)], capture_output=True, text=True, check=False)
    if how == "naive":  # the limit is a limit
        assert done.returncode != 0
        assert "MemoryError" in done.stderr
    else:
        assert done.returncode == 0, done.stderr[-2000:]
        assert int(done.stdout.split()[1]) > 200_000


# --- bad input -------------------------------------------------------------------------------


def test_an_empty_corpus_is_refused(prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n  \n\n")
    with pytest.raises(
        CorpusError, match="the corpus is empty: none of its sources has a line of text"
    ):
        prepare(tmp_path / "a.txt")
    assert not [p for p in (tmp_path / "cache" / "corpus").iterdir() if p.is_dir()]


@pytest.mark.parametrize(
    ("share", "length", "part"), [(0.001, 2048, "heldout"), (0.5, 4096, "train")]
)
def test_too_little_text_is_refused(
    prepare: Prepare, text_file: Path, share: float, length: int, part: str
) -> None:
    message = rf"its {part} part \(\d+ of 211 documents\) fills no row of {length} tokens"
    with pytest.raises(CorpusError, match=message):
        prepare(text_file, heldout_share=share, block_length=length)


def test_a_bad_file_leaves_no_corpus(prepare: Prepare, tmp_path: Path, text_file: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_bytes(text_file.read_bytes() + b"\xff\n")
    with pytest.raises(
        CorpusError, match=rf"bad\.txt is not UTF-8: byte {text_file.stat().st_size} is 0xff"
    ):
        prepare(text_file, bad)
    assert not [p for p in (tmp_path / "cache" / "corpus").iterdir() if p.is_dir()]
    assert prepare(text_file, bad, on_bad_utf8="replace").record.sources[1].documents == 212


def test_a_folder_without_a_tokenizer_is_refused(
    prepare: Prepare, text_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="has no tokenizer: expected"):
        module.prepare_corpus(
            corpus_settings([SourceSpec(files=str(text_file))]), tmp_path, cache=tmp_path
        )


def test_a_cache_that_cannot_be_written_is_reported(
    prepare: Prepare, text_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        prepare(text_file, cache=tmp_path / "file")
