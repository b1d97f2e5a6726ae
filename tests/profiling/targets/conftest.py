"""A board without a board: an sshd of our own on loopback, in front of an emulated arm64 Python."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedistil.device import load_device
from edgedistil.parity.probes import ProbeBatch, Probes
from edgedistil.profiling.messages import Case, Job, JobModel
from edgedistil.profiling.targets.emulated import Guest, open_guest

_SSH = shutil.which("ssh")
LAYERS, VOCABULARY, HIDDEN, FEED_FORWARD, HEADS = 2, 97, 32, 64, 4


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """An encoder of 2 layers, 32 wide, in fp32 and int8, with probes that its fp32 form answered on this machine."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder = tmp_path_factory.mktemp("tiny")
    fp32, int8, uint8 = (folder / f"model{suffix}.onnx" for suffix in ("", "_int8", "_uint8"))
    onnx.save(tiny_encoder(), fp32)
    quantize_dynamic(fp32, int8, weight_type=QuantType.QInt8)
    quantize_dynamic(fp32, uint8, weight_type=QuantType.QUInt8)
    return TinyModel(fp32, int8, uint8, folder)


@pytest.fixture(scope="session")
def tiny_model_folder(tiny: TinyModel) -> Path:
    """The folder of `tiny`, with a tokenizer of letters and a path that a shell would misread."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tiny.folder / "a model's folder; $(touch pwned)"
    folder.mkdir()
    for path in (tiny.fp32, tiny.int8):
        (folder / path.name).write_bytes(path.read_bytes())
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{each}" for each in letters)]
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@dataclass(frozen=True)
class TinyModel:
    fp32: Path
    int8: Path
    uint8: Path
    folder: Path

    def probes(self) -> Probes:
        import onnxruntime

        session = onnxruntime.InferenceSession(self.fp32, providers=["CPUExecutionProvider"])
        return Probes(
            "feature-extraction", "ab" * 32, 7, (), tuple(self._batch(session, *s) for s in ((1, 5), (3, 11)))
        )

    @staticmethod
    def _batch(session: object, B: int, L: int) -> ProbeBatch:
        ids_BL = np.random.default_rng(L).integers(0, VOCABULARY, (B, L))
        mask_BL = np.ones_like(ids_BL)
        out_BLD = session.run(None, {"input_ids": ids_BL, "attention_mask": mask_BL})[0]  # type: ignore[attr-defined]
        rows_N2 = np.array([(b, position) for b in range(B) for position in range(0, L, 2)])
        return ProbeBatch(
            input_ids_BL=ids_BL,
            attention_mask_BL=mask_BL,
            token_type_ids_BL=None,
            rows_N2=rows_N2,
            outputs={"last_hidden_state": out_BLD[rows_N2[:, 0], rows_N2[:, 1]]},
            masked_M2=np.zeros((0, 2), np.int64),
            choices_M=np.zeros(0, np.int64),
            margins_M=np.zeros(0, np.float32),
            hidden_rows_R2=np.zeros((0, 2), np.int64),
            hidden_KRD=np.zeros((0, 0, HIDDEN), np.float32),
            whole_KBLD=None,
        )

    def job(self, **changes: object) -> Job:
        """One steady call of 2 × 7 tokens and its outputs: seconds under emulation."""
        standard = {
            "models": {"tiny": JobModel(file="m/model.onnx")},
            "cases": [Case(name="7", keys=["a"])],
            "phases": ["steady", "outputs"],
            "warmup_calls": 0,
            "min_calls": 1,
            "min_seconds": 0,
            "outputs": "outputs.npz",
            "timeout_seconds": 120,
        }
        return Job(**{**standard, **changes})

    def files(self, model: Path) -> dict[str, Path]:
        inputs = self.folder / "inputs.npz"
        ids_BL = np.arange(2 * 7).reshape(2, 7)
        np.savez(inputs, **{"a/input_ids": ids_BL, "a/attention_mask": np.ones_like(ids_BL)})
        return {"m/model.onnx": model, "inputs.npz": inputs}


def tiny_encoder() -> onnx.ModelProto:
    """A post-norm transformer encoder from random numbers, inputs as a tokenizer gives them."""
    build = _Builder(np.random.default_rng(0))
    x = build.node("Gather", [build.weight("embeddings", VOCABULARY, HIDDEN), "input_ids"])
    for name, value in (("split", [0, 0, HEADS, HIDDEN // HEADS]), ("merge", [0, 0, HIDDEN]), ("axes", [1, 2])):
        build.constant(name, np.array(value, np.int64))
    blocked = build.node("Sub", [build.constant("one", np.float32(1)), build.node("Cast", ["attention_mask"], to=1)])
    mask = build.node("Mul", [build.node("Unsqueeze", [blocked, "axes"]), build.constant("far", np.float32(-1e4))])
    scale = build.constant("scale", np.float32((HIDDEN // HEADS) ** -0.5))
    for layer in range(LAYERS):
        x = build.layer(f"layer.{layer}", x, mask, scale)
    build.nodes[-1].output[0] = "last_hidden_state"
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", HIDDEN])
    graph = helper.make_graph(build.nodes, "tiny", inputs, [output], build.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


class _Builder:
    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: np.ndarray | np.generic) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        return self.constant(name, (self.random.standard_normal(shape) * 0.2).astype(np.float32))

    def node(self, operator: str, inputs: list[str], **attributes: object) -> str:
        output = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def linear(self, name: str, x: str, wide: int, out: int) -> str:
        product = self.node("MatMul", [x, self.weight(f"{name}.weight", wide, out)])
        return self.node("Add", [product, self.weight(f"{name}.bias", out)])

    def norm(self, name: str, x: str) -> str:
        gain = self.constant(f"{name}.gain", np.ones(HIDDEN, np.float32))
        return self.node("LayerNormalization", [x, gain, self.weight(f"{name}.shift", HIDDEN)], axis=-1)

    def heads(self, name: str, x: str, permutation: list[int]) -> str:
        split = self.node("Reshape", [self.linear(name, x, HIDDEN, HIDDEN), "split"])
        return self.node("Transpose", [split], perm=permutation)

    def layer(self, name: str, x: str, mask: str, scale: str) -> str:
        query, value = (self.heads(f"{name}.{part}", x, [0, 2, 1, 3]) for part in ("query", "value"))
        scores = self.node("Mul", [self.node("MatMul", [query, self.heads(f"{name}.key", x, [0, 2, 3, 1])]), scale])
        weights = self.node("Softmax", [self.node("Add", [scores, mask])], axis=-1)
        mixed = self.node("Transpose", [self.node("MatMul", [weights, value])], perm=[0, 2, 1, 3])
        merged = self.linear(f"{name}.out", self.node("Reshape", [mixed, "merge"]), HIDDEN, HIDDEN)
        x = self.norm(f"{name}.norm1", self.node("Add", [merged, x]))
        inner = self.node("Relu", [self.linear(f"{name}.up", x, HIDDEN, FEED_FORWARD)])
        return self.norm(
            f"{name}.norm2", self.node("Add", [self.linear(f"{name}.down", inner, FEED_FORWARD, HIDDEN), x])
        )


# --- a board ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def pi4_guest() -> Iterator[Guest]:
    """An emulated Raspberry Pi 4 with the pinned onnxruntime."""
    with open_guest(load_device("rpi4")) as guest:
        yield guest


@dataclass
class Sshd:
    """An ssh server of our own: own keys, own config, a random port on loopback.

    `home` is the board's home folder, `bin` holds the programs that stand before the system's on its PATH, and
    `ssh_config` is what the ssh client reads instead of the user's.
    """

    folder: Path
    port: int
    bin: Path
    home: Path
    ssh_config: Path
    process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def destination(self) -> str:
        return f"{getpass.getuser()}@127.0.0.1:{self.port}"

    def leftovers(self) -> list[str]:
        """What lies in the board's home that was not there at first."""
        return sorted(path.name for path in self.home.iterdir())


@pytest.fixture(scope="session")
def ssh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    folder = tmp_path_factory.mktemp("sshd")
    folder.chmod(0o700)
    for name in ("host_key", "user_key", "stranger_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "authorized_keys").write_bytes((folder / "user_key.pub").read_bytes())
    # A home that a shell would fall over, were it ever put into a command without quotes.
    home, programs = folder / "it's a home; $(touch pwned) `touch pwned`", folder / "bin"
    home.mkdir()
    programs.mkdir()
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # a server that root starts insists on it
    with _Server(folder, programs, home) as (process, port):
        key = (folder / "host_key.pub").read_text().split()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {key[0]} {key[1]}\n")
        yield Sshd(folder, port, programs, home, client_config(folder), process)


def client_config(folder: Path, *, key: str = "user_key", known: str = "known_hosts") -> Path:
    path = folder / f"ssh_config.{key}.{known}"
    path.write_text(
        f"IdentityFile {folder / key}\nIdentitiesOnly yes\nIdentityAgent none\nUserKnownHostsFile {folder / known}\n"
        "GlobalKnownHostsFile /dev/null\nStrictHostKeyChecking yes\n"
    )
    return path


class _Server:
    """Starts sshd, waits until it listens, and stops it at the end."""

    def __init__(self, folder: Path, programs: Path, home: Path) -> None:
        self.folder, self.programs, self.home = folder, programs, home

    def __enter__(self) -> tuple[subprocess.Popen[bytes], int]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (self.folder / "sshd_config").write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {self.folder / 'host_key'}\n"
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}\nPidFile none\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
            f'SetEnv PATH={self.programs} "HOME={self.home}"\n'
        )
        program = shutil.which("sshd") or "/usr/sbin/sshd"  # sshd insists on an absolute path
        command = [program, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        self.log = (self.folder / "sshd.log").open("wb")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        for _ in range(500):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return self.process, port
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        self.__exit__()
        pytest.fail(f"sshd does not listen: {(self.folder / 'sshd.log').read_text()}")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.log.close()


# What a board's shell finds, and nothing else: what a test does not install is not there.
SYSTEM_PROGRAMS = (
    *("sh", "env", "timeout", "sha256sum", "mktemp", "find", "cat", "rm", "mv", "ln", "mkdir", "wc", "tail", "id"),
    *("sleep", "truncate", "ps"),
)


@pytest.fixture
def board(ssh_server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sshd:
    """The server, reached with the right key, with an empty home and no Python: each test installs what it needs."""
    for folder in (ssh_server.bin, ssh_server.home):
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name in SYSTEM_PROGRAMS:
        (ssh_server.bin / name).symlink_to(str(shutil.which(name)))
    use_client_config(tmp_path, monkeypatch, ssh_server.ssh_config)
    return ssh_server


@pytest.fixture
def pi4(board: Sshd, pi4_guest: Guest) -> Sshd:
    """The board with an emulated Raspberry Pi 4 behind its python3."""
    install_guest_python(board, pi4_guest)
    return board


@pytest.fixture
def quick(board: Sshd) -> Sshd:
    """The board with this machine's own Python: for what has nothing to do with ARM, and in a tenth of the time."""
    install_python(board)
    return board


def install_guest_python(server: Sshd, guest: Guest, *, with_packages: bool = True) -> None:
    """Puts a python3 on the board that runs the emulated one; what that starts as sys.executable is emulated too."""
    given = guest.environment()
    if not with_packages:
        given.pop("PYTHONPATH")
        # What is compiled here must not go into the user's cache; the standard library's is taken from there.
        own, library = server.folder / "pycache", str(guest.sysroot.home).lstrip("/")
        (own / library).parent.mkdir(parents=True)
        (own / library).symlink_to(Path(given["PYTHONPYCACHEPREFIX"]) / library)
        given["PYTHONPYCACHEPREFIX"] = str(own)
    kept = ("PYTHONHOME", "PYTHONPYCACHEPREFIX", "PYTHONPATH")
    exports = [f"export {key}={shlex.quote(given[key])}" for key in kept if key in given]
    # Unpacking 115 MB takes a minute under emulation, and shows nothing there.
    native = f'case "$*" in *-m\\ zipfile*) unset PYTHONHOME PYTHONPATH; exec {sys.executable} "$@" ;; esac'
    command = shlex.join(guest.command(name=str(server.bin / "python3")))
    install_program(server, "python3", "\n".join(["#!/bin/sh", native, *exports, f'exec {command} "$@"']))


def install_python(server: Sshd, *, instead: dict[str, str] | None = None, flags: str = "") -> None:
    """Puts this machine's Python on the board.

    Args:
        instead: Shell pattern of the arguments → what happens instead of running Python.
        flags: For Python itself.
    """
    cases = "".join(f"  {pattern}) {script} ;;\n" for pattern, script in (instead or {}).items())
    install_program(server, "python3", f'#!/bin/sh\ncase "$*" in\n{cases}esac\nexec {sys.executable} {flags} "$@"\n')


def install_program(server: Sshd, name: str, script: str) -> None:
    """Puts a program on the board."""
    path = server.bin / name
    path.unlink(missing_ok=True)
    path.write_text(script)
    path.chmod(0o755)


def use_client_config(folder: Path, monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    """An ssh on PATH that reads `config` instead of the user's: the product needs no option for that."""
    programs = folder / "client"
    programs.mkdir(exist_ok=True)
    (programs / "ssh").write_text(f'#!/bin/sh\nexec {_SSH} -F {shlex.quote(str(config))} "$@"\n')
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


@pytest.fixture
def install(board: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    return Installer(board, tmp_path, monkeypatch)


@dataclass(frozen=True)
class Installer:
    """Changes the board, or the client that reaches it."""

    board: Sshd
    folder: Path
    monkeypatch: pytest.MonkeyPatch

    @staticmethod
    def through_itself(server: Sshd) -> str:
        """A deed for `python`: what the script starts as sys.executable goes through the board's python3 again."""
        code = (
            f"import runpy, sys; sys.executable = {str(server.bin / 'python3')!r}; sys.argv = sys.argv[1:]; "
            "runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        return f'exec {sys.executable} -c {shlex.quote(code)} "$@"'

    guest_python = staticmethod(install_guest_python)
    python = staticmethod(install_python)
    program = staticmethod(install_program)

    def client_config(self, *, key: str = "user_key", known: str = "known_hosts") -> None:
        use_client_config(self.folder, self.monkeypatch, client_config(self.board.folder, key=key, known=known))
