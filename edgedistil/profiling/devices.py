"""The commands of `edgedistil devices`: list the devices, show one, draft one from a machine.

These functions print.
"""

from __future__ import annotations

from pathlib import Path

from edgedistil.core import console
from edgedistil.core.device import HOST, DeviceSpec, Figure, device_names, dump_device, load_device
from edgedistil.core.errors import DeviceFileError, InputError
from edgedistil.core.rundir import write_text
from edgedistil.costmodel.calibration import device_constants
from edgedistil.profiling.device_probe import benchmark_machine, device_name, draft_device
from edgedistil.runtime import host
from edgedistil.runtime.local import LocalTarget
from edgedistil.runtime.target import Target

# The speed-up is measured at every thread count; a machine that reports more cores is not probed
# beyond this.
_MOST_CORES = 128
# A row of a table: property, figure, source.
Row = list[str]


# --- list ----------------------------------------------------------------------------------------


def list_devices() -> None:
    """Prints one line per device; an invalid device file has its problems there."""
    rows = [
        [HOST, f"this machine ({host.machine_name()})", str(host.usable_threads()), "–", "measured"]
    ]
    for name in device_names():
        try:
            spec = load_device(name)
        except DeviceFileError as error:
            # The other devices are listed all the same.
            rows.append([name, f"the file has problems: {error.message}", "–", "–", "–"])
            continue
        memory = f"{spec.memory.size_gib.value:g} GiB"
        rows.append([name, spec.title, str(spec.cores), memory, describe_isa(spec)])
    console.table("Devices", ["name", "title", "cores", "memory", "instruction set"], rows)
    console.result(
        "\nedgedistil devices show NAME prints every figure of a device with its source; "
        "docs/adding-a-device.md explains how to add one"
    )


def describe_isa(spec: DeviceSpec) -> str:
    """Describes the instruction set by its level and what matters to int8 kernels."""
    isa = spec.isa
    # Of VNNI, AVX-512 and AVX2 only the best one is shown.
    features = {
        "dot product": isa.dot_product,
        "i8mm": isa.i8mm,
        "VNNI": isa.vnni,
        "AVX-512": isa.avx512 and not isa.vnni,
        "AVX2": isa.avx2 and not isa.avx512,
        "fp16": isa.fp16,
    }
    present = [name for name, is_present in features.items() if is_present]
    return f"{isa.level} ({', '.join(present) or 'no dot product'})"


# --- show ----------------------------------------------------------------------------------------


def show_device(name: str) -> None:
    """Prints every figure of a device with its source.

    Args:
        name: "host", or the name of a device file.
    Raises:
        DeviceFileError: The device is unknown, or its file has problems.
    """
    if name == HOST:
        _show_host()
        return
    spec = load_device(name)
    rows = [
        ["instruction set", describe_isa(spec), spec.isa.source],
        *_cluster_rows(spec),
        *_cache_rows(spec),
        *_memory_rows(spec),
        *_runtime_rows(spec),
        *_identity_rows(spec),
    ]
    console.table(f"{spec.name}: {spec.title}", ["property", "figure", "source"], rows)
    for note in spec.notes:
        console.result(f"  {note}")


def _show_host() -> None:
    # This host has no device file: it is measured, not described.
    console.result(f"title: {host.machine_name()}")
    for key, value in host.conditions().items():
        console.result(f"{key}: {value}")


def _cluster_rows(spec: DeviceSpec) -> list[Row]:
    rows = []
    for cluster in spec.clusters:
        rows.append(_row(f"{cluster.core}, {cluster.pipeline}", cluster.cores, "cores"))
        rows.append(_row("clock", cluster.clock_ghz, "GHz"))
        # fp16 is only there for cores that compute in it.
        peak = cluster.macs_per_cycle
        int8 = spec.int8_figure(cluster)
        for kind, figure in (("fp32", peak.fp32), ("fp16", peak.fp16), ("int8", int8)):
            if figure is not None:
                rows.append(_row(f"{kind} multiply-adds", figure, "a cycle"))
    scaling = spec.thread_scaling
    speedups = " ".join(f"{speedup:g}" for speedup in scaling.speedups)
    origin = scaling.source or f"assumed: {scaling.assumed}"
    rows.append(["speed-up by threads", speedups, origin])
    return rows


def _cache_rows(spec: DeviceSpec) -> list[Row]:
    caches = spec.caches
    sharing = "shared" if caches.l2_shared else "each core"
    rows = [
        _row("L1 data cache", caches.l1d_kib, "KiB"),
        _row(f"L2 cache ({sharing})", caches.l2_kib, "KiB"),
    ]
    if caches.l3_kib is not None:
        rows.append(_row("L3 cache", caches.l3_kib, "KiB"))
    return rows


def _memory_rows(spec: DeviceSpec) -> list[Row]:
    memory = spec.memory
    return [
        _row("memory", memory.size_gib, "GiB"),
        _row("memory bandwidth", memory.bandwidth_gb_per_s, "GB/s"),
        _row("… of one core", memory.one_core_gb_per_s, "GB/s"),
        _row("page size", memory.page_kib, "KiB"),
    ]


def _runtime_rows(spec: DeviceSpec) -> list[Row]:
    rows = [["onnxruntime", spec.runtime.onnxruntime, spec.runtime.source]]
    for version, reason in spec.runtime.refused.items():
        rows.append(["incompatible onnxruntime", version, reason])
    # The width of the bands, and whether the constants are calibrated, assumed or fitted.
    constants = device_constants(spec)
    rows.append(
        [
            "predictions of onnxruntime",
            f"bands with high = {constants.spread:.2g} × low",
            f"{constants.spread_origin}; constants: {constants.origin}",
        ]
    )
    emulation = f"qemu -cpu {spec.qemu_cpu}" if spec.qemu_cpu else "not emulated"
    rows.append(["emulated as", emulation, ""])
    return rows


def _identity_rows(spec: DeviceSpec) -> list[Row]:
    identity = spec.identity
    return [["recognized by", ", ".join([*identity.boards, *identity.flags]), identity.source]]


def _row(name: str, figure: Figure, unit: str) -> Row:
    return [name, f"{figure.value:g} {unit}", figure.origin]


# --- probe ---------------------------------------------------------------------------------------


def probe_device(*, ssh: str | None = None) -> None:
    """Writes devices/NAME.toml, a draft from what a machine reports and from short benchmarks.

    Args:
        ssh: USER@HOST of the machine; None for this one.
    Raises:
        InputError: A file of that name exists.
        TargetError: The machine cannot be reached, or cannot run the benchmarks.
    """
    if ssh is None:
        _write_draft(LocalTarget())
        return
    # Imported here: most commands need no connection.
    from edgedistil.runtime.ssh.target import SshTarget

    with SshTarget(ssh) as board:
        _write_draft(board)


def _write_draft(target: Target) -> None:
    # A quota or taskset may allow fewer cores than the machine has.
    identity = target.identify()
    cores = min(identity.usable_threads or 1, _MOST_CORES)
    path = Path("devices") / f"{device_name(identity)}.toml"
    # Checked before the benchmarks: a draft never replaces a file that a person may have edited.
    if path.exists():
        raise InputError(f"{path} exists already", hint="move it away first; nothing was changed")
    console.say(f"measuring {target.source}: MatMuls, threads, bandwidth")
    spec = draft_device(benchmark_machine(target, cores=cores), cores=cores)
    write_text(path, dump_device(spec))
    console.result(
        f"{path}: a draft of {spec.title}; look up the figures that are marked assumed, "
        f"then: edgedistil devices show {spec.name}"
    )
