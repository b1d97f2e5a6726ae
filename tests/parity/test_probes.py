"""Probes on disk: complete, reproducible, and refused when corrupt."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgedistil.core.errors import ShapeError, StorageError
from edgedistil.parity.probes import PoolBatch, Probes, TextPool

if TYPE_CHECKING:
    from tests.parity.conftest import Exported


def test_saved_probes_are_loaded_as_they_were(exported: Exported, tmp_path: Path) -> None:
    probes = exported.probes
    probes.save(tmp_path / "probes.npz")
    loaded = Probes.load(tmp_path / "probes.npz")
    assert (loaded.task, loaded.source_sha256, loaded.seed) == (
        probes.task,
        probes.source_sha256,
        probes.seed,
    )
    assert loaded.boundaries == probes.boundaries
    assert len(loaded.batches) == len(probes.batches)
    for one, other in zip(loaded, probes, strict=True):
        assert one.feeds().keys() == other.feeds().keys()
        for name in (
            "input_ids_BL",
            "attention_mask_BL",
            "rows_N2",
            "choices_M",
            "margins_M",
            "hidden_KRD",
        ):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert (one.full_hidden_KBLD is None) == (other.full_hidden_KBLD is None)
        np.testing.assert_array_equal(one.outputs["logits"], other.outputs["logits"])


def test_problem_type_is_stored_where_there_is_one(exported: Exported, tmp_path: Path) -> None:
    path = tmp_path / "probes.npz"
    for problem_type in ("multi_label_classification", None):
        replace(exported.probes, problem_type=problem_type).save(path)
        assert Probes.load(path).problem_type == problem_type
        with np.load(path) as archive:
            assert ("problem_type" in str(archive["head"])) == (problem_type is not None)


def test_the_same_probes_are_the_same_bytes(exported: Exported, tmp_path: Path) -> None:
    exported.probes.save(tmp_path / "one.npz")
    exported.probes.save(tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_up_to_keeps_the_short_batches(exported: Exported) -> None:
    short = exported.probes.up_to(16)
    assert short.lengths == [5, 7, 8, 13, 16]
    assert short.tokens == sum(b.input_ids_BL.size for b in exported.probes if b.length <= 16)
    with pytest.raises(ShapeError, match="no probe has at most 3 tokens"):
        exported.probes.up_to(3)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_a_corrupt_file_is_an_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "probes.npz"
    path.write_bytes(content)
    with pytest.raises(StorageError, match="does not contain readable probes"):
        Probes.load(path)
    with pytest.raises(StorageError, match="does not contain readable probes"):
        Probes.load(tmp_path / "missing.npz")


def test_no_damage_is_more_than_an_error_with_the_way_out(
    exported: Exported, tmp_path: Path
) -> None:
    exported.probes.save(tmp_path / "probes.npz")
    intact = (tmp_path / "probes.npz").read_bytes()
    rng = random.Random(5)
    refused = 0
    for _ in range(60):
        damaged = bytearray(intact)
        for _ in range(rng.choice((1, 30))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        (tmp_path / "probes.npz").write_bytes(damaged)
        try:
            Probes.load(tmp_path / "probes.npz")
        except StorageError as error:
            assert "edgedistil export writes them again" in str(error)
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("head", ["[]", "null", "1", '{"format": 1}', "[" * 100_000])
def test_a_head_of_another_shape_is_refused(head: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "probes.npz", head=np.array(head))
    with pytest.raises(StorageError, match="does not contain readable probes"):
        Probes.load(tmp_path / "probes.npz")


def test_another_format_and_pickles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "probes.npz"
    np.savez(path, head=np.array('{"format": 99}'))
    with pytest.raises(StorageError, match="format 99, expected 1"):
        Probes.load(path)
    np.savez(path, head=np.array([{"format": 1}], dtype=object))
    with pytest.raises(StorageError, match="allow_pickle=False"):
        Probes.load(path)


def test_stored_names_are_part_of_the_format(exported: Exported, tmp_path: Path) -> None:
    exported.probes.save(tmp_path / "probes.npz")
    with np.load(tmp_path / "probes.npz") as archive:
        names = {name.partition("/")[2] for name in archive if "/" in name}
    assert names >= {"input_ids_BL", "hidden_KRD", "whole_KBLD", "output/logits"}


def test_a_pool_is_stored_where_there_is_one(exported: Exported, tmp_path: Path) -> None:
    feeds = {"input_ids": np.array([[5, 6], [7, 0]]), "attention_mask": np.array([[1, 1], [1, 0]])}
    vectors = np.array([[0.5, -1.5, 2.0], [0.0, 1.0, 3.0]], np.float32)
    pool = TextPool("dot", (PoolBatch(feeds, vectors),))
    replace(exported.probes, pool=pool).save(tmp_path / "probes.npz")
    loaded = Probes.load(tmp_path / "probes.npz").pool
    assert loaded is not None and (loaded.similarity, loaded.texts) == ("dot", 2)
    np.testing.assert_array_equal(loaded.batches[0].vectors_BV, vectors)
    assert loaded.batches[0].feeds.keys() == feeds.keys()
    np.testing.assert_array_equal(loaded.batches[0].feeds["input_ids"], feeds["input_ids"])
    exported.probes.save(tmp_path / "probes.npz")
    assert Probes.load(tmp_path / "probes.npz").pool is None
