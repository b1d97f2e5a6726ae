"""Tokens of a corpus from the sizes of its sources; GPUs from shapes."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import zstandard
from transformers import BertConfig, BertForMaskedLM

from edgedistil.core.errors import CorpusError
from edgedistil.core.recipe import Loss, SourceSpec
from edgedistil.core.recipe_student import Student
from edgedistil.core.records import Band
from edgedistil.distill.plan.estimate import (
    RunWorkload,
    UnknownSizeError,
    estimate_tokens,
    gpu_counts,
    plan_gpus,
)
from edgedistil.distill.plan.presets import known_text
from edgedistil.distill.schedule import RunLength
from edgedistil.distill.setup import build_student
from edgedistil.models.teacher import read_teacher


def test_tokens_of_files_and_a_known_text(tmp_path: Path) -> None:
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_bytes(b"x" * 457)
    sources = [
        SourceSpec(files=str(tmp_path / "*.txt")),
        SourceSpec(hub="bookcorpus/bookcorpus"),
    ]
    tokens, how = estimate_tokens(sources, heldout_share=0.25)
    assert tokens == pytest.approx((2 * 457 + 4_853_859_824) / 4.57 * 0.75, rel=1e-6)
    assert "2 files" in how
    assert "bookcorpus/bookcorpus: 4.85 GB by its card" in how


def tokens_of(files: Path | str) -> tuple[float, str]:
    tokens, how = estimate_tokens([SourceSpec(files=str(files))], heldout_share=0.25)
    return tokens / 0.75 * 4.57, how


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_file_counts_its_text(suffix: str, tmp_path: Path) -> None:
    compress = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[suffix]
    words = np.random.default_rng(3).integers(0, 5000, 2_600_000)
    text = " ".join(map(str, words.tolist())).encode()
    assert len(text) > 10 * 2**20
    small, large = tmp_path / f"small.txt{suffix}", tmp_path / f"large.txt{suffix}"
    small.write_bytes(compress(text[:100_000]))
    large.write_bytes(compress(text))
    size, how = tokens_of(small)
    assert size == pytest.approx(100_000, rel=1e-3)
    assert how.endswith("small.txt" + suffix + ": 1 file")
    size, how = tokens_of(tmp_path / f"*.txt{suffix}")
    assert size == pytest.approx(len(text) + 100_000, rel=0.03)
    assert "2 files, 1 of them scaled from the ratio of their first 8 MiB" in how


def test_a_home_folder_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "one.txt").write_bytes(b"x" * 4570)
    assert tokens_of("~/one.txt")[0] == pytest.approx(4570, rel=1e-2)


def test_a_url_has_an_unknown_size() -> None:
    with pytest.raises(UnknownSizeError, match=r"size of 'https://a\.b/c\.txt' is unknown"):
        tokens_of("https://a.b/c.txt")


def test_files_without_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="matches no file"):
        tokens_of(tmp_path / "*.txt")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(CorpusError, match=r"the corpus has 0 bytes of text: .*1 file"):
        tokens_of(tmp_path / "*.txt")
    (tmp_path / "damaged.txt.gz").write_bytes(b"no gzip")
    with pytest.raises(CorpusError, match=r"damaged\.txt\.gz is truncated, corrupt"):
        tokens_of(tmp_path / "damaged.txt.gz")


@pytest.fixture
def teacher(tiny_teacher: Path) -> BertForMaskedLM:
    return read_teacher(tiny_teacher, name="tiny").model


def test_gpus_share_the_global_batch(teacher: BertForMaskedLM) -> None:
    workload = RunWorkload(
        length=RunLength(steps=11, tokens_per_step=138),
        block_length=23,
        global_batch=6,
        micro_batch=6,
        masked_share=0.15,
        heldout_tokens=500,
        evaluations=11,
        checkpoint_every_s=600,
    )
    student = build_student(Student(), teacher, seed=3)
    one = plan_gpus(teacher, student, workload, Loss(), processes=1)
    three = plan_gpus(teacher, student, workload, Loss(), processes=3)
    assert [device.micro_batch for device in (one[0], three[0])] == [6, 2]
    # So small a model waits for its kernels to be launched: 10 to 40 ms a micro-batch.
    assert "launches of kernels" in one[0].how
    for device, tokens in ((one[0], 6 * 23), (three[0], 3 * 2 * 23)):
        assert isinstance(device.tokens_per_s, Band)
        assert device.tokens_per_s.low == pytest.approx(tokens / 0.04)
        assert device.tokens_per_s.high == pytest.approx(tokens / 0.01)
        assert isinstance(device.seconds, Band)
        assert device.seconds.low == pytest.approx(11 * 138 * 0.01 / tokens)


def test_a_large_model_takes_15_to_45_percent_of_the_peak() -> None:
    config = BertConfig(hidden_size=64, num_attention_heads=2, num_hidden_layers=4)
    model = BertForMaskedLM(config)
    workload = RunWorkload(
        length=RunLength(steps=11, tokens_per_step=2**22),
        block_length=512,
        global_batch=2**13,
        micro_batch=2**13,
        masked_share=0.15,
        heldout_tokens=500,
        evaluations=1,
        checkpoint_every_s=600,
    )
    # Wide enough that computing takes longer than launching.
    [a100] = [
        device
        for device in plan_gpus(model, model, workload, Loss(), processes=1)
        if device.device == "A100 80 GB"
    ]
    assert isinstance(a100.tokens_per_s, Band)
    assert a100.tokens_per_s.high == pytest.approx(3 * a100.tokens_per_s.low)
    assert a100.how == "assumed 15% to 45% of 312 TFLOP/s, bfloat16"


@pytest.mark.parametrize(
    ("processes", "global_batch", "expected"),
    [(1, 256, [1, 8]), (8, 4096, [1, 8]), (3, 24, [1, 3, 8]), (1, 6, [1])],
)
def test_a_run_is_planned_on_one_gpu_on_eight_and_on_the_recipes_own(
    processes: int, global_batch: int, expected: list[int]
) -> None:
    assert gpu_counts(processes, global_batch=global_batch) == expected


def test_a_share_of_a_known_text() -> None:
    whole, tenth = (
        known_text("wikimedia/wikipedia", "20231101.en", s) for s in ("train", "train[:10%]")
    )
    assert whole is not None
    assert tenth is not None
    assert tenth.text_bytes == whole.text_bytes // 10
    assert tenth.source.startswith("10% of 20.2 GB")
    assert known_text("wikimedia/wikipedia", "20231101.en", "test") is None
