"""`edgedistil devices`: what there is, what one is, and which one a machine is."""

from __future__ import annotations

from pathlib import Path

from edgedistil.core import console
from edgedistil.core.cpu import usable_cores
from edgedistil.core.device import HOST, DeviceSpec, Figure, device_names, dump_device, load_device
from edgedistil.core.errors import DeviceFileError, InputError
from edgedistil.core.rundir import write_text
from edgedistil.profiling import device_probe as probe
from edgedistil.runtime import host
from edgedistil.runtime.target import Target


def list_devices() -> None:
    """Prints a line a device; a file with problems is told in its line."""
    rows = [[HOST, f"this machine ({host.machine_name()})", str(usable_cores()), "–", "measured"]]
    for name in device_names():
        try:
            spec = load_device(name)
        except DeviceFileError as error:
            rows.append([name, f"the file has problems: {error.message}", "–", "–", "–"])
            continue
        rows.append(
            [
                name,
                spec.title,
                str(spec.cores),
                f"{spec.memory.size_gib.value:g} GiB",
                features(spec),
            ]
        )
    console.table("Devices", ["name", "what", "cores", "memory", "instruction set"], rows)
    console.result(
        "\nedgedistil devices NAME explains one; docs/adding-a-device.md tells how to add one"
    )


def features(spec: DeviceSpec) -> str:
    """The level and what matters to int8 in a few words."""
    isa = spec.isa
    named = {
        "dot product": isa.dot_product,
        "i8mm": isa.i8mm,
        "VNNI": isa.vnni,
        "AVX-512": isa.avx512 and not isa.vnni,
        "AVX2": isa.avx2 and not isa.avx512,
        "fp16": isa.fp16,
    }
    have = [name for name, there in named.items() if there]
    return f"{isa.level} ({', '.join(have) or 'no dot product'})"


def explain_device(name: str) -> None:
    """Prints every figure of a device with its source.

    Raises:
        DeviceFileError: Unknown, or its file has problems.
    """
    if name == HOST:
        for key, value in {"title": host.machine_name(), **host.conditions()}.items():
            console.result(f"{key}: {value}")
        return
    spec = load_device(name)
    rows = [["instruction set", features(spec), spec.isa.source]]
    for cluster in spec.clusters:
        peak = cluster.macs_per_cycle
        rows.append([f"{cluster.core}, {cluster.pipeline}", *_told(cluster.cores, "cores")])
        rows.append(["clock", *_told(cluster.clock_ghz, "GHz")])
        named = {"fp32": peak.fp32, "fp16": peak.fp16, "int8": peak.int8}
        rows += [
            [f"{kind} multiply-adds", *_told(each, "a cycle")]
            for kind, each in named.items()
            if each is not None
        ]
    caches = spec.caches
    rows.append(["L1 data cache", *_told(caches.l1d_kib, "KiB")])
    rows.append(
        [
            f"L2 cache ({'shared' if caches.l2_shared else 'each core'})",
            *_told(caches.l2_kib, "KiB"),
        ]
    )
    if caches.l3_kib is not None:
        rows.append(["L3 cache", *_told(caches.l3_kib, "KiB")])
    memory = spec.memory
    rows.append(["memory", *_told(memory.size_gib, "GiB")])
    rows.append(["memory bandwidth", *_told(memory.bandwidth_gb_per_s, "GB/s")])
    rows.append(["… of one core", *_told(memory.one_core_gb_per_s, "GB/s")])
    rows.append(["page size", *_told(memory.page_kib, "KiB")])
    scaling = spec.thread_scaling
    origin = scaling.source or f"assumed: {scaling.assumed}"
    rows.append(["speed-up by threads", " ".join(f"{each:g}" for each in scaling.speedups), origin])
    rows.append(["onnxruntime", spec.runtime.onnxruntime, spec.runtime.source])
    rows += [["refuses onnxruntime", version, why] for version, why in spec.runtime.refused.items()]
    rows.append(["predictions of onnxruntime", *_predictions(spec)])
    rows.append(
        ["emulated as", f"qemu -cpu {spec.qemu_cpu}" if spec.qemu_cpu else "not emulated", ""]
    )
    rows.append(
        [
            "names itself",
            ", ".join([*spec.identity.boards, *spec.identity.flags]),
            spec.identity.source,
        ]
    )
    console.table(f"{spec.name}: {spec.title}", ["what", "figure", "source"], rows)
    for note in spec.notes:
        console.result(f"  {note}")


def _predictions(spec: DeviceSpec) -> list[str]:
    """How wide the bands are, and where the constants are from."""
    from edgedistil.costmodel.model import ONNXRUNTIME_CONSTANTS, core_family
    from edgedistil.profiling import calibrate

    constants = calibrate.load(spec) or ONNXRUNTIME_CONSTANTS[core_family(spec)]
    return [f"bands with high = {constants.spread:.2g} × low", f"constants: {constants.origin}"]


def _told(figure: Figure, unit: str) -> list[str]:
    return [f"{figure.value:g} {unit}", figure.origin]


def probe_device(*, ssh: str | None = None) -> None:
    """Writes devices/NAME.toml, a draft from a live machine: what it tells, and what was measured in seconds.

    Raises:
        InputError: A file of that name is there already.
        TargetError: The machine could not be reached, or could not run the benchmarks.
    """
    from edgedistil.runtime.local import LocalTarget

    if ssh is None:
        _write_draft(LocalTarget())
        return
    from edgedistil.runtime.ssh.target import SshTarget

    with SshTarget(ssh) as board:
        _write_draft(board)


def _write_draft(target: Target) -> None:
    identity = target.identify()
    cores = identity.cores_allowed or identity.cores or 1
    path = Path("devices") / f"{probe.slug(identity.board or identity.cpu or 'machine')}.toml"
    if path.exists():
        raise InputError(f"{path} is there already", hint="move it away first; nothing was changed")
    console.say(f"measuring {target.source}: products, threads, bandwidth")
    spec = probe.draft(probe.measure_machine(target, cores=cores), cores=cores)
    write_text(path, dump_device(spec))
    console.result(
        f"{path}: a draft of {spec.title}; look up what is marked assumed, then: edgedistil devices {spec.name}"
    )
