"""Device files: every shipped one loads, every figure has a source, every problem is reported."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from edgedistil.core.device import DeviceSpec, device_names, dump_device, load_device, parse_device
from edgedistil.core.errors import DeviceFileError
from edgedistil.core.shipped import shipped_folder

SHIPPED = (
    *("graviton2", "jetson-orin-nano", "rk3588", "rpi3", "rpi4", "rpi5"),
    *("x86-amx", "x86-avx2", "x86-avx512-vnni", "zero2w"),
)


def rpi4() -> dict[str, Any]:
    return tomllib.loads((shipped_folder("devices") / "rpi4.toml").read_text(encoding="utf-8"))


def test_shipped_devices_are_these() -> None:
    assert tuple(path.stem for path in sorted(shipped_folder("devices").glob("*.toml"))) == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_device_loads_and_survives_a_round_trip(name: str) -> None:
    spec = load_device(name)
    assert spec.name == name
    assert parse_device(tomllib.loads(dump_device(spec)), where="dump") == spec


@pytest.mark.parametrize(
    ("name", "dot_product", "vnni"),
    [
        ("rpi4", False, False),
        ("rpi5", True, False),
        ("x86-avx2", False, False),
        ("x86-avx512-vnni", False, True),
    ],
)
def test_the_quantizer_reads_its_features(name: str, dot_product: bool, vnni: bool) -> None:
    isa = load_device(name).isa
    assert (isa.dot_product, isa.vnni) == (dot_product, vnni)


def test_armv8_0_boards_refuse_the_runtime_that_dies_there() -> None:
    for name in ("rpi3", "rpi4", "zero2w"):
        assert "SIGILL" in load_device(name).runtime.refused["1.21.0"]
    assert load_device("rpi5").runtime.refused == {}


def test_an_unknown_device_gets_a_suggestion() -> None:
    with pytest.raises(
        DeviceFileError, match=r"unknown device 'rpi44'; did you mean 'rpi4'"
    ) as caught:
        load_device("rpi44")
    assert "zero2w" in str(caught.value)
    assert caught.value.exit_code == 2


def test_all_problems_are_reported_at_once() -> None:
    data = rpi4()
    data["clusters"][0]["cores"]["value"] = -4
    data["memory"]["bandwith_gb_per_s"] = data["memory"].pop("bandwidth_gb_per_s")
    del data["caches"]["l2_kib"]
    with pytest.raises(DeviceFileError) as caught:
        parse_device(data, where="mine")
    message = caught.value.message
    assert "4 problems" in message
    assert "unknown key 'memory.bandwith_gb_per_s'; did you mean 'bandwidth_gb_per_s'?" in message
    assert "'memory.bandwidth_gb_per_s' is missing" in message
    assert "'caches.l2_kib' is missing" in message
    assert "'clusters.0.cores.value' is -4.0: input should be greater than" in message


@pytest.mark.parametrize("extra", [{}, {"source": "a book", "assumed": "a guess"}])
def test_a_figure_says_where_it_is_from_exactly_once(extra: dict[str, str]) -> None:
    data = rpi4()
    data["clusters"][0]["clock_ghz"] = {"value": 1.8, **extra}
    with pytest.raises(DeviceFileError, match="exactly one of source, assumed"):
        parse_device(data, where="mine")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0, 1e300, 1e-300, "fast", True])
def test_a_figure_is_a_positive_number(value: object) -> None:
    data = rpi4()
    data["memory"]["size_gib"] = {"value": value, "source": "a book"}
    with pytest.raises(DeviceFileError, match=r"memory\.size_gib"):
        parse_device(data, where="mine")


@pytest.mark.parametrize("cores", [0.5, 2.5, 1e9])
def test_cores_are_an_integer(cores: float) -> None:
    data = rpi4()
    data["clusters"][0]["cores"]["value"] = cores
    with pytest.raises(DeviceFileError, match=r"cores is .*: expected an integer from 1 to"):
        parse_device(data, where="mine")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        (None, "name", "x" * 61),
        (None, "name", "x\n"),
        ("runtime", "onnxruntime", ">=" + "9" * 5000),
        ("thread_scaling", "speedups", [1.0] * 5000),
        ("thread_scaling", "speedups", [1.0, 1e300]),
    ],
)
def test_values_beyond_any_device_are_refused(section: str | None, key: str, value: object) -> None:
    data = rpi4()
    target = data if section is None else data[section]
    target[key] = value
    with pytest.raises(DeviceFileError, match=key):
        parse_device(data, where="mine")


def test_thread_scaling_starts_at_one_and_ends_flat() -> None:
    spec = load_device("rpi4")
    assert [spec.thread_scaling.of(n) for n in (1, 2, 3, 4, 9)] == [1, 1.73, 2.3, 2.67, 2.67]
    data = rpi4()
    data["thread_scaling"]["speedups"] = [2, 3]
    with pytest.raises(DeviceFileError, match="first speed-up is of one thread and must be 1"):
        parse_device(data, where="mine")


@pytest.mark.parametrize("text", ["name = [", "\x00", 'name = "a"\nname = "b"'])
def test_a_file_that_is_not_toml_is_reported(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DeviceFileError, match="is not valid TOML"):
        load_device(path)


def test_the_users_own_file_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("devices").mkdir()
    text = (shipped_folder("devices") / "rpi4.toml").read_text(encoding="utf-8")
    Path("devices/rpi4.toml").write_text(
        text.replace("value = 1.8,", "value = 2.0,"), encoding="utf-8"
    )
    Path("devices/mine.toml").write_text(
        text.replace('name = "rpi4"', 'name = "mine"'), encoding="utf-8"
    )
    assert load_device("rpi4").clusters[0].clock_ghz.value == 2.0
    assert "mine" in device_names()


def test_every_figure_of_a_spec_has_an_origin() -> None:
    for name in SHIPPED:
        spec: DeviceSpec = load_device(name)
        cluster = spec.clusters[0]
        for figure in (
            cluster.clock_ghz,
            spec.int8_figure(cluster),
            spec.memory.bandwidth_gb_per_s,
        ):
            assert len(figure.origin) > 5


@pytest.mark.parametrize(
    ("device", "features", "products"),
    [
        ("rpi4", {}, 2),
        ("rpi4", {"dot_product": True}, 4),
        ("graviton2", {"i8mm": True}, 8),
        ("x86-avx2", {}, 2),
        ("x86-avx512-vnni", {}, 4),
        ("x86-amx", {}, 32),
    ],
)
def test_int8_multiply_adds_follow_from_the_instruction_set(
    device: str, features: dict[str, bool], products: int
) -> None:
    spec = load_device(device)
    spec = spec.model_copy(update={"isa": spec.isa.model_copy(update=features)})
    assert spec.macs_per_cycle("int8") == products * spec.macs_per_cycle("fp32")


def test_a_core_with_a_figure_of_its_own_keeps_it() -> None:
    spec = load_device("rpi3")
    assert spec.macs_per_cycle("int8") == 4 == spec.macs_per_cycle("fp32")
    assert spec.int8_figure(spec.clusters[0]).assumed is not None
