"""Tokenization is timed for each length and shown with its share of a call."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import edgedistil
from edgedistil.core.errors import InputError
from edgedistil.core.options import ProfileOptions
from edgedistil.core.records import NotMeasured
from edgedistil.profiling import tokenization
from edgedistil.profiling.stage import check_options
from edgedistil.profiling.tokenization import (
    add_cpp_tokenization,
    add_page_tokenization,
    add_tokenization,
)
from edgedistil.profiling.workload import PAIRS, Workloads, build_workloads
from edgedistil.report.profile_tables import latency_table, profile_table
from edgedistil.runtime.browser.target import BrowserTarget
from tests.profiling.conftest import make_artefact, make_record, make_row

CPP_SOURCES = Path(edgedistil.__file__).with_name("bundle") / "cpp"
LINES = ["the boat left the harbour before sunrise and the road was long"] * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with a token for each word of the text."""
    path = tmp_path_factory.mktemp("tokenizer")
    words = ["[UNK]", "[CLS]", "[SEP]", *dict.fromkeys(LINES[0].split())]
    backend = Tokenizer(
        models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]")
    )
    backend.add_special_tokens(words[:3])
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    backend.save(str(path / "tokenizer.json"))
    return path


@pytest.fixture
def workloads(folder: Path) -> Workloads:
    return build_workloads([folder], LINES, source="a test", lengths=[6, 11], pairs=2)


class Clock:
    """Time that passes at each call: 2 ms for a text of four words, 3 ms for a longer one."""

    def __init__(self) -> None:
        self.now, self.texts = 0, set[str]()

    def encode(self, text: str) -> None:
        self.texts.add(text)
        self.now += 2_000_000 if len(text.split()) == 4 else 3_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """Replaces time, and the encoding of a text."""
    fake = Clock()
    read = tokenization.read_tokenizer

    class Backend:
        encode = fake.encode

        def __init__(self, backend: Tokenizer) -> None:
            self.decode = backend.decode

    def read_slow(path: Path) -> object:
        return replace(read(path), backend=Backend(read(path).backend))

    monkeypatch.setattr(tokenization, "read_tokenizer", read_slow)
    monkeypatch.setattr(tokenization.time, "perf_counter_ns", lambda: fake.now)
    yield fake


def test_each_length_has_the_time_of_its_texts(
    folder: Path, workloads: Workloads, clock: Clock
) -> None:
    artefact = replace(make_artefact("student"), tokenizer=folder)
    rows = [make_row(length=6), make_row(length=11), make_row(length=PAIRS)]
    short, long, pairs = add_tokenization(rows, [artefact], workloads)
    assert (short.tokenization_ms, long.tokenization_ms) == (2.0, 3.0)
    assert short.tokenization_share == pytest.approx(2 / (2 + 7))
    assert isinstance(pairs.tokenization_ms, NotMeasured)
    assert pairs.tokenization_share is None
    # Several texts of each length, without special tokens.
    assert len(clock.texts) > 6
    assert {len(text.split()) for text in clock.texts} == {4, 9}
    assert not any("[CLS]" in text for text in clock.texts)


def test_a_real_tokenizer_takes_some_time(folder: Path, workloads: Workloads) -> None:
    artefact = replace(make_artefact("student"), tokenizer=folder)
    [row] = add_tokenization([make_row(length=6)], [artefact], workloads)
    assert isinstance(row.tokenization_ms, float)
    assert 0 < row.tokenization_ms < 1000


def test_tables_show_the_time_and_its_share() -> None:
    rows = [
        make_row(length=64, tokenization_ms=0.25),
        make_row(length=128, tokenization_ms=0.5, precision="int8", latency_ms=4.5),
        make_row(length=128, tokenization_ms=0.5, latency_ms=9.5),
    ]
    notes = latency_table(make_record(rows=rows)).notes
    assert (
        "tokenization of 128 tokens in Python: 0.50 ms, which the calls exclude; its share from "
        "text to output: student feature-extraction int8 10.0%, "
        "student feature-extraction fp32 5.0%"
    ) in notes
    cpp = [row.model_copy(update={"tokenization_cpp_ms": 0.1}) for row in rows]
    [note] = [n for n in latency_table(make_record(rows=cpp)).notes if "in C++: 0.10 ms" in n]
    assert note.endswith("extraction int8 2.2%, student feature-extraction fp32 1.0%")
    page = [row.model_copy(update={"tokenization_in": "JavaScript"}) for row in rows]
    notes = latency_table(make_record(rows=page)).notes
    assert any("tokens in JavaScript: 0.50 ms" in note for note in notes)
    table = profile_table(make_record(rows=[*rows, make_row(length=32)]))
    column = table.columns.index("tokenization ms")
    assert [cells[column] for cells in table.rows] == ["0.25", "0.50", "0.50", "–"]
    assert not [n for n in latency_table(make_record(rows=[make_row()])).notes if "tokeniz" in n]


# --- a C++ bundle ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cpp_bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer's part of a compiled bundle, which needs no libonnxruntime."""
    bundle = tmp_path_factory.mktemp("cpp") / "bundle"
    shutil.copytree(CPP_SOURCES, bundle)
    (bundle / "model").mkdir()
    shutil.copyfile(folder / "tokenizer.json", bundle / "model" / "tokenizer.json")
    # Not optimized, because compiling takes longer than the runs.
    configure = ["cmake", "-S", str(bundle), "-B", str(bundle / "build")]
    subprocess.run([*configure, "-DCMAKE_BUILD_TYPE=Debug"], check=True, capture_output=True)
    build = ["cmake", "--build", str(bundle / "build"), "--target", "time_texts"]
    subprocess.run(build, check=True, capture_output=True)
    return bundle


@pytest.mark.needs("g++", "cmake")
def test_a_compiled_bundle_is_timed(cpp_bundle: Path, folder: Path, workloads: Workloads) -> None:
    artefact = replace(make_artefact("student"), tokenizer=folder)
    rows = [make_row(length=6), make_row(length=11), make_row(length=PAIRS)]
    short, long, pairs = add_cpp_tokenization(rows, [artefact], workloads, cpp_bundle)
    for row in (short, long):
        assert isinstance(row.tokenization_cpp_ms, float)
        assert 0 < row.tokenization_cpp_ms < 1000
        assert row.tokenization_cpp_share is not None
    assert isinstance(pairs.tokenization_cpp_ms, NotMeasured)
    assert short.tokenization_ms == rows[0].tokenization_ms


@pytest.mark.needs("g++", "cmake")
def test_a_bundle_with_another_tokenizer_is_refused(
    cpp_bundle: Path, folder: Path, workloads: Workloads, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(cpp_bundle, tmp_path / "other"))
    path = other / "model" / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    artefact = replace(make_artefact("student"), tokenizer=folder)
    with pytest.raises(InputError, match="other has the tokenizer of none of the artefacts"):
        add_cpp_tokenization([make_row(length=6)], [artefact], workloads, other)


def test_a_folder_without_a_compiled_bundle_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a bundle in C\+\+: it has no model"):
        check_options(ProfileOptions(cpp=tmp_path))
    (tmp_path / "model").mkdir()
    shutil.copyfile(folder / "tokenizer.json", tmp_path / "model" / "tokenizer.json")
    shutil.copyfile(CPP_SOURCES / "CMakeLists.txt", tmp_path / "CMakeLists.txt")
    with pytest.raises(InputError, match="has no build/time_texts") as error:
        check_options(ProfileOptions(cpp=tmp_path))
    assert "cmake --build" in str(error.value.hint)
    with pytest.raises(InputError, match="--cpp and --browser exclude each other"):
        check_options(ProfileOptions(cpp=tmp_path, browser="chromium"))


@pytest.fixture
def scripted_bundle(folder: Path, tmp_path: Path) -> Path:
    """A bundle whose program is yet to be written."""
    for part in ("model", "build"):
        (tmp_path / part).mkdir()
    shutil.copyfile(folder / "tokenizer.json", tmp_path / "model" / "tokenizer.json")
    shutil.copyfile(CPP_SOURCES / "CMakeLists.txt", tmp_path / "CMakeLists.txt")
    return tmp_path


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("no machine code", "time_texts failed: OSError:.* Exec format error"),
        ("#!/bin/sh\nprintf 'bad \\033[31mid\\n' >&2\nexit 3", r"failed: bad \?\[31mid"),
        ("#!/bin/sh\nexit 3", "failed: exit code 3"),
        ("#!/bin/sh\necho 0.1", "printed '0.1', expected 2 times in milliseconds"),
        ("#!/bin/sh\necho 0.1 fast", "printed '0.1 fast', expected 2 times in milliseconds"),
        ("#!/bin/sh\necho 0.1 nan", "printed '0.1 nan', expected 2 times in milliseconds"),
        ("#!/bin/sh\nprintf '\\377'", "expected 2 times in milliseconds"),
        ("#!/bin/sh\nexec sleep 60", "time_texts did not end within 0.5 s"),
    ],
)
def test_a_program_that_gives_no_times_is_refused(
    program: str,
    message: str,
    scripted_bundle: Path,
    folder: Path,
    workloads: Workloads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = scripted_bundle / "build" / "time_texts"
    path.write_text(program)
    path.chmod(0o755)
    if "sleep" in program:
        monkeypatch.setattr(tokenization, "_CPP_TIMEOUT_S", 0.5)
    artefact = replace(make_artefact("student"), tokenizer=folder)
    with pytest.raises(InputError, match=message) as caught:
        add_cpp_tokenization([make_row(length=6)], [artefact], workloads, scripted_bundle)
    assert caught.value.hint


# --- a page ---------------------------------------------------------------------------------------


@pytest.mark.needs("chromium", "npm")
def test_an_exports_tokenizer_is_timed_in_a_page(small_export: Path) -> None:
    """And a folder without the module has a reason instead of a time."""
    artefact = replace(make_artefact("student"), tokenizer=small_export)
    workloads = build_workloads([small_export], LINES, source="a test", lengths=[6, 11], pairs=1)
    rows = [make_row(length=6), make_row(length=11)]
    for row in add_page_tokenization(rows, [artefact], workloads, BrowserTarget.find()):
        assert isinstance(row.tokenization_ms, float)
        assert 0 < row.tokenization_ms < 1000
        assert row.tokenization_in == "JavaScript"


@pytest.mark.needs("chromium", "npm")
def test_a_tokenizer_that_a_page_cannot_run_has_a_reason(
    folder: Path, workloads: Workloads, small_export: Path, tmp_path: Path
) -> None:
    """The rows stay as they are; a folder of another tool has no module."""
    artefact = replace(make_artefact("student"), tokenizer=folder)
    target = BrowserTarget.find()
    [row] = add_page_tokenization([make_row(length=6)], [artefact], workloads, target)
    assert isinstance(row.tokenization_ms, NotMeasured)
    assert "no tokenizer in JavaScript" in row.tokenization_ms.not_measured

    export = Path(shutil.copytree(small_export, tmp_path / "export"))
    module = export / "tokenizer.mjs"
    module.write_text(f"throw new Error('no such part');\n{module.read_text()}")
    workloads = build_workloads([export], LINES, source="a test", lengths=[6], pairs=1)
    artefact = replace(artefact, tokenizer=export)
    [row] = add_page_tokenization([make_row(length=6)], [artefact], workloads, target)
    assert isinstance(row.tokenization_ms, NotMeasured)
    assert row.tokenization_ms.not_measured == "the page failed: Error: no such part"
