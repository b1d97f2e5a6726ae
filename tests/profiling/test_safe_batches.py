"""The largest batches within a memory limit: searched, written to session.json, and kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedistil.core.bulk_limit import BulkLimit, SafeShape
from edgedistil.core.bulk_records import ArtefactLimit
from edgedistil.core.contract import read_contract, write_contract
from edgedistil.core.errors import InputError, ModelError, StorageError
from edgedistil.core.sentence_vector import SentenceVector
from edgedistil.core.session import (
    SessionAdvice,
    SessionOptions,
    read_session_file,
    set_bulk_limit,
    write_session_file,
)
from edgedistil.inference import windows
from edgedistil.inference.encoder import Encoder
from edgedistil.profiling import safe_batches
from edgedistil.profiling.artefacts import file_artefact
from edgedistil.profiling.safe_batches import _Search, find_limit, require_batches
from tests.fixtures.exported_run import WORDS, write_tokenizer
from tests.fixtures.small_package import small_contract
from tests.profiling.conftest import make_artefact

LIMIT = 256 * 2**20
# Values that a text's token takes in the graph's largest tensor: 16 KB.
WIDE = 4096
GRAPH = "onnx/model.onnx"


# Texts longer than the model reads are part of these collections.
pytestmark = pytest.mark.filterwarnings("ignore::edgedistil.inference.task_model.TextsCutWarning")


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export folder whose graph takes much memory and little time for a token."""
    folder = tmp_path_factory.mktemp("export") / "student-feature-extraction"
    (folder / "onnx").mkdir(parents=True)
    write_tokenizer(folder)
    write_contract(folder, small_contract(SentenceVector(pooling=("mean",), steps=(), dimension=3)))
    onnx.save(wide_encoder(), folder / GRAPH)
    advice = SessionAdvice(
        session=SessionOptions(threads=1),
        reasons={"threads": "one"},
        precision="fp32",
        target_device="host",
    )
    write_session_file(folder / "session.json", {GRAPH: advice})
    return folder


def wide_encoder() -> onnx.ModelProto:
    """Means of a table's rows by way of a wide layer, which takes 16 KB a token twice."""
    random = np.random.default_rng(3)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.normal(0, 0.1, shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("MatMul", ["rows", "up"], ["wide"]),
        helper.make_node("Sin", ["wide"], ["curved"]),
        helper.make_node("MatMul", ["curved", "down"], ["last_hidden_state"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "axis"], ["mask3"]),
        helper.make_node("Mul", ["last_hidden_state", "mask3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "one"], ["sums"], keepdims=0),
        helper.make_node("ReduceSum", ["mask3", "one"], ["counts"], keepdims=0),
        helper.make_node("Div", ["sums", "counts"], ["sentence_embedding"]),
    ]
    axes = ["batch", "sequence"]
    graph = helper.make_graph(
        nodes,
        "wide",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, axes)
            for name in ("input_ids", "attention_mask")
        ],
        [
            helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*axes, 3]),
            helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", 3]),
        ],
        [
            weight("table", 53, 7),
            weight("up", 7, WIDE),
            weight("down", WIDE, 3),
            numpy_helper.from_array(np.array([2]), "axis"),
            numpy_helper.from_array(np.array([1]), "one"),
        ],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


@pytest.fixture(scope="module")
def measured_limit(encoder_folder: Path) -> ArtefactLimit:
    """The limit of the wide encoder, measured and written."""
    return find_limit(LIMIT, file_artefact(encoder_folder / GRAPH), [16, 128], threads=1)


def test_the_largest_batches_are_measured_and_written(
    measured_limit: ArtefactLimit, encoder_folder: Path
) -> None:
    limit = measured_limit.limit
    advice = read_session_file(encoder_folder / "session.json")[GRAPH]
    assert advice.bulk == limit and advice.reasons == {"threads": "one"}, "the rest remains"
    assert [shape.length for shape in limit.shapes] == [16, 128, 512], "the model's longest too"
    assert limit.longest == 512 == read_contract(encoder_folder).tokenizer.max_length
    assert 0 < limit.reserved_bytes < limit.peak_bytes <= (1 - limit.margin) * LIMIT
    # Each position takes 16 to 48 KB of what the program and the runtime leave.
    for shape in limit.shapes:
        assert shape.batch * shape.length * WIDE * 4 < LIMIT
    # Larger batches do not fit: the search did not stop early.
    assert limit.shapes[0].batch * 16 > 1024


# A subprocess that embeds as `edgedistil embed` does, and prints its peak.
_EMBED = """
import sys
from edgedistil.cli import app
from edgedistil.inference.footprint import peak_bytes
try:
    app(["embed", sys.argv[1], "--model", sys.argv[2], "--out", sys.argv[3]])
except SystemExit as end:
    assert not end.code, end.code
print(peak_bytes())
"""


def embed_peak(folder: Path, texts: Path, out: Path) -> int:
    command = [sys.executable, "-c", _EMBED, str(texts), str(folder), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def test_embedding_many_texts_stays_within_the_limit(
    measured_limit: ArtefactLimit, encoder_folder: Path, tmp_path: Path
) -> None:
    texts = tmp_path / "texts.txt"
    random = np.random.default_rng(5)
    lines = [" ".join(random.choice(WORDS, size)) for size in random.integers(0, 600, 1500)]
    # One text is far longer than any model reads.
    lines[7] = " ".join(WORDS) * 50_000
    texts.write_text("\n".join(lines))
    out = tmp_path / "vectors.npy"
    peak = embed_peak(encoder_folder, texts, out)
    assert peak <= LIMIT, f"{peak / 2**20:.0f} MiB with {measured_limit.limit.shapes}"
    vectors = np.load(out, mmap_mode="r")
    assert vectors.shape == (1500, 3)
    # In the order of the texts, whatever order they were computed in.
    encoder = Encoder(encoder_folder)
    for index in (0, 7, 999, 1499):
        np.testing.assert_allclose(vectors[index], encoder.embed([lines[index]])[0], atol=1e-5)
    # The check can fail: without the limit the same texts need more.
    advice = read_session_file(encoder_folder / "session.json")
    free = tmp_path / "free"
    subprocess.run(["cp", "-r", str(encoder_folder), str(free)], check=True)
    large = measured_limit.limit.shapes[-1].batch * 40
    shapes = [SafeShape(length=512, batch=large)]
    limit = BulkLimit(**{**vars(advice[GRAPH].bulk), "shapes": shapes})  # type: ignore[arg-type]
    set_bulk_limit(free / "session.json", GRAPH, limit)
    code = _EMBED.replace(
        "from edgedistil.cli",
        "from edgedistil.inference import encoder\n"
        "encoder.Encoder.__init__.__kwdefaults__['batch_tokens'] = 2**20\n"
        "from edgedistil.cli",
    )
    command = [sys.executable, "-c", code, str(texts), str(free), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) > LIMIT


def test_no_call_is_larger_than_the_limit_allows(
    measured_limit: ArtefactLimit, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder(encoder_folder, batch_tokens=2**20)
    assert encoder.memory_limit_bytes == LIMIT
    calls: list[tuple[int, ...]] = []
    run = type(encoder._model).run

    def watched(model: object, ids: np.ndarray, *rest: np.ndarray, outputs: Any) -> object:
        calls.append(ids.shape)
        return run(model, ids, *rest, outputs=outputs)  # type: ignore[arg-type]

    monkeypatch.setattr(type(encoder._model), "run", watched)
    monkeypatch.setattr(windows, "WINDOW_CHARACTERS", 2**24)
    texts = [" ".join([WORDS[0]] * size) for size in (0, 3, 14, 15, 120, 126, 300, 600)] * 40
    encoder.embed(texts)
    assert sum(batch for batch, _ in calls) == len(texts)
    for batch, length in calls:
        assert batch <= measured_limit.limit.largest_batch(length)
        assert batch * length <= max(s.batch * s.length for s in measured_limit.limit.shapes)


def test_texts_beyond_the_limit_are_refused_at_once(encoder_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(encoder_folder), str(folder)], check=True)
    limit = make_limit({16: 40, 128: 5})
    set_bulk_limit(folder / "session.json", GRAPH, limit)
    with pytest.raises(
        InputError, match="texts of up to 128 tokens fit; this model reads up to 512"
    ):
        Encoder(folder)
    assert Encoder(folder, max_length=128).largest_batch(17) == 5
    set_bulk_limit(folder / "session.json", GRAPH, make_limit({}))
    with pytest.raises(InputError, match="limits the memory to 64 MiB, in which no text fits"):
        Encoder(folder, max_length=5)


def make_limit(batches: dict[int, int]) -> BulkLimit:
    return BulkLimit(
        limit_bytes=64 * 2**20,
        shapes=[SafeShape(length=length, batch=batch) for length, batch in batches.items()],
        reserved_bytes=1,
        peak_bytes=1,
        margin=0.1,
        margin_reason="test",
        threads=1,
    )


def make_entry(batches: dict[int, int]) -> ArtefactLimit:
    return ArtefactLimit(
        model="student",
        role="student",
        task="feature-extraction",
        precision="int8",
        artefact_sha256="ab",
        device="host",
        limit=make_limit(batches),
        session_file=None,
    )


def test_a_length_between_two_has_the_batch_of_the_longer_one() -> None:
    limit = make_limit({16: 40, 128: 5})
    assert [limit.largest_batch(length) for length in (1, 16, 17, 128, 129)] == [40, 40, 5, 5, 0]
    # Noise of a measurement never makes a shorter text the more expensive one.
    assert make_limit({16: 4, 128: 5}).largest_batch(16) == 5


def test_a_batch_that_does_not_fit_names_the_largest_that_does() -> None:
    entry = make_entry({16: 40, 128: 5})
    require_batches([entry], [1, 5], [16, 128])
    with pytest.raises(
        InputError,
        match="--batch 6 exceeds the memory limit of 64 MiB; the largest batches that fit: "
        "student feature-extraction int8 5 texts of 128 tokens",
    ):
        require_batches([entry], [6, 1], [16, 128])
    require_batches([entry], [40], [16])
    with pytest.raises(InputError, match="int8 not a single text of 256 tokens"):
        require_batches([entry], [1], [256])


def test_the_largest_batch_of_every_artefact_is_named() -> None:
    large = make_entry({128: 2}).model_copy(update={"precision": "fp32"})
    with pytest.raises(InputError) as caught:
        require_batches([large, make_entry({128: 5}), make_entry({128: 9})], [8], [128])
    assert (
        str(caught.value)
        .partition(" that fit: ")[2]
        .startswith(
            "student feature-extraction fp32 2 texts of 128 tokens; "
            "student feature-extraction int8 5 texts of 128 tokens"
        )
    )
    assert "9 texts" not in str(caught.value)


# --- the search, on a machine whose memory is a formula -------------------------------------------


class _Modelled(_Search):
    """Peaks of 10 MB and 1 KB a token, and 1 MB for each shape of a process but the first."""

    def _peak(self, shapes):  # type: ignore[no-untyped-def]
        largest = max(batch * length for batch, length in shapes)
        return 10_000_000 + 1000 * largest + 1_000_000 * (len(shapes) - 1)


def test_the_search_finds_the_largest_batch() -> None:
    search = _Modelled(make_artefact("student"), SessionOptions(), 1, allowed=15_000_000)
    assert search._largest_batch(100) == 50
    assert search._largest_batch(5000) == 1
    assert search._largest_batch(5001) == 0
    generous = _Modelled(make_artefact("student"), SessionOptions(), 1, allowed=10**9)
    assert generous._largest_batch(64) == safe_batches.MOST_POSITIONS // 64


def test_all_shapes_together_have_to_fit() -> None:
    search = _Modelled(make_artefact("student"), SessionOptions(), 1, allowed=15_000_000)
    batches, peak = search.run([10, 100, 1000])
    assert peak == search._peak([(batch, length) for length, batch in batches.items()])
    assert 13_000_000 < peak <= 15_000_000
    assert 0.5 * 500 < batches[10] < 500 and 25 < batches[100] < 50 and batches[1000] >= 1
    nothing = _Modelled(make_artefact("student"), SessionOptions(), 1, allowed=-1)
    assert nothing.run([10]) == ({}, 0)


# --- session.json --------------------------------------------------------------------------------


def test_damaged_limits_are_refused_and_files_without_one_are_read(encoder_folder: Path) -> None:
    path = encoder_folder.parent / "session.json"
    path.write_bytes((encoder_folder / "session.json").read_bytes())
    set_bulk_limit(path, GRAPH, make_limit({16: 2}))
    data = json.loads(path.read_text())
    without = {**data["artefacts"][GRAPH]}
    del without["bulk"]
    path.write_text(json.dumps({**data, "artefacts": {GRAPH: without}}))
    assert read_session_file(path)[GRAPH].bulk is None
    for change in ({"shapes": [{"length": 0, "batch": 1}]}, {"limit_bytes": "x"}, {"more": 1}):
        bulk = {**data["artefacts"][GRAPH]["bulk"], **change}
        entry = {**data["artefacts"][GRAPH], "bulk": bulk}
        path.write_text(json.dumps({**data, "artefacts": {GRAPH: entry}}))
        with pytest.raises(StorageError, match=r"not a valid session\.json") as error:
            read_session_file(path)
        assert "edgedistil export" in str(error.value.hint)
    path.write_text(json.dumps({**data, "format": 0}))
    with pytest.raises(StorageError, match="format 0, expected 1"):
        read_session_file(path)
    with pytest.raises(StorageError, match="not about other"):
        set_bulk_limit(encoder_folder / "session.json", "other", make_limit({}))


def test_a_graph_that_does_not_run_is_an_error_and_not_a_limit(
    encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safe_batches, "measure_reserved", lambda *_: 0)
    folder = tmp_path / "m"
    subprocess.run(["cp", "-r", str(encoder_folder), str(folder)], check=True)
    model = onnx.load(folder / GRAPH)
    model.graph.node[3].input[1] = "up"
    onnx.save(model, folder / GRAPH)
    with pytest.raises(ModelError, match="cannot run it"):
        find_limit(LIMIT, file_artefact(folder / GRAPH), [16], threads=1)
