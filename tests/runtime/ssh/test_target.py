"""The complete ssh path: a real sshd on loopback, in front of an emulated Raspberry Pi 4."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedistil.core.device import load_device
from edgedistil.core.errors import TargetError
from edgedistil.runtime.qemu.target import open_guest
from edgedistil.runtime.reply import MAX_REPLY_BYTES
from edgedistil.runtime.ssh import target as ssh
from edgedistil.runtime.ssh.target import SshTarget
from edgedistil.runtime.target import raise_failure

pytestmark = pytest.mark.needs("qemu-aarch64", "sshd", "ssh")

JOB = "*job.json*reply.json"


def test_onnxruntime_1_21_0_is_rejected_on_armv8_0_before_it_is_imported(board, install) -> None:
    with open_guest(load_device("rpi4"), onnxruntime="1.21.0") as guest:
        install.guest_python(board, guest)
        with SshTarget(board.destination) as target, pytest.raises(TargetError) as error:
            target.identify()
    message = "onnxruntime 1.21.0 cannot run on this machine: dies with SIGILL on ARMv8.0"
    assert message in str(error.value)
    assert error.value.exit_code == 4
    assert board.leftovers() == []


def test_a_board_gets_its_packages_and_is_identified_measured_and_left_clean(
    board, install, pi4_guest, tiny, tmp_path: Path
) -> None:
    """One test: each process that imports onnxruntime costs ten seconds under emulation."""
    install.guest_python(board, pi4_guest, with_packages=False)
    with (
        SshTarget(board.destination) as target,
        pytest.raises(TargetError, match="has no numpy and no onnxruntime"),
    ):
        target.identify()
    outputs = tmp_path / "outputs.npz"
    with SshTarget(board.destination, bootstrap=True) as target:
        identity = target.identify()
        reply = target.run(tiny.job(), tiny.files(tiny.int8), outputs_to=outputs)
        name, method = target.name, target.method
    assert reply.ok, reply.error
    assert (name, method) == ("rpi4", "measured")
    assert (identity.board, identity.machine) == ("Raspberry Pi 4 Model B", "aarch64")
    assert reply.identity.onnxruntime == identity.onnxruntime == "1.32.0"
    assert len(reply.models["tiny"].cases["7"].samples_ns) == 1
    assert np.load(outputs)["tiny/a/last_hidden_state"].shape == (2, 7, 32)
    assert board.leftovers() == []


def test_a_file_is_sent_only_once(quick, tiny) -> None:
    with SshTarget(quick.destination) as target:
        first = target.run(tiny.job(), tiny.files(tiny.int8))
        sent = target.sent_bytes
        second = target.run(tiny.job(), tiny.files(tiny.int8))
        assert first.ok and second.ok
        assert sent > tiny.int8.stat().st_size
        assert target.sent_bytes == sent


def test_what_a_login_script_prints_does_not_matter(quick, tiny) -> None:
    (quick.home / ".bashrc").write_text("echo 'Welcome to the board'; echo status=7\n")
    with SshTarget(quick.destination) as target:
        assert target.run(tiny.job(), tiny.files(tiny.int8)).ok
    assert quick.leftovers() == [".bashrc"]


def test_a_login_script_that_prints_megabytes_does_not_matter(quick, tiny) -> None:
    (quick.home / ".bashrc").write_text("head -c 3000000 /dev/zero\n")
    (quick.bin / "head").symlink_to(str(shutil.which("head")))
    with SshTarget(quick.destination) as target:
        assert target.run(tiny.job(), tiny.files(tiny.int8)).ok
    assert quick.leftovers() == [".bashrc"]


# --- the command ---------------------------------------------------------------------------------


def edgedistil(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgedistil", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_the_command_measures_a_board(quick, tiny_model_folder: Path, tmp_path: Path) -> None:
    model = str(tiny_model_folder / "model_int8.onnx")
    done = edgedistil(
        tmp_path,
        "profile",
        "--ssh",
        quick.destination,
        "--model",
        model,
        "--length",
        "16",
        "--threads",
        "1",
    )
    assert done.returncode == 0, done.stderr
    assert "measured" in done.stdout
    assert quick.leftovers() == []


@pytest.mark.parametrize(
    ("destination", "code", "message"),
    [
        (
            "me@127.0.0.1:9",
            4,
            "cannot connect to me@127.0.0.1:9: no ssh server listens on this port",
        ),
        ("-oProxyCommand=touch pwned", 2, "is not a valid destination"),
        ("$(touch pwned)", 2, "is not a valid destination"),
        ("board; touch pwned", 2, "is not a valid destination"),
    ],
)
def test_the_command_distinguishes_failures(
    board, tiny_model_folder, tmp_path, destination, code, message
) -> None:
    model = str(tiny_model_folder / "model_int8.onnx")
    done = edgedistil(tmp_path, "profile", f"--ssh={destination}", "--model", model)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert list(tmp_path.glob("pwned")) == []


# --- failures to reach it ------------------------------------------------------------------------


def test_no_server_listens(board) -> None:
    reason = r"no ssh server listens on this port \(ssh: connect to host .*refused\)"
    with pytest.raises(
        TargetError, match=r"cannot connect to me@127\.0\.0\.1:9: " + reason
    ) as error:
        SshTarget("me@127.0.0.1:9").identify()
    assert error.value.exit_code == 4


def test_no_such_host(board) -> None:
    with pytest.raises(TargetError, match="the host name cannot be resolved"):
        SshTarget("no-such-board.invalid").identify()


def test_the_wrong_key(board, install) -> None:
    install.client_config(key="stranger_key")
    with pytest.raises(TargetError, match="it does not accept this user's key"):
        SshTarget(board.destination).identify()


def test_an_unknown_host_key(board, install) -> None:
    (board.folder / "none_known").touch()
    install.client_config(known="none_known")
    with pytest.raises(TargetError, match="its host key is unknown"):
        SshTarget(board.destination).identify()


def test_a_changed_host_key(board, install) -> None:
    other = (board.folder / "stranger_key.pub").read_text().split()
    (board.folder / "other_known").write_text(f"[127.0.0.1]:{board.port} {other[0]} {other[1]}\n")
    install.client_config(known="other_known")
    with pytest.raises(TargetError, match="its host key differs from the known one"):
        SshTarget(board.destination).identify()


# --- a board that lacks something ----------------------------------------------------------------


def test_a_board_without_python(board) -> None:
    with SshTarget(board.destination) as target, pytest.raises(TargetError, match="has no python3"):
        target.identify()
    assert board.leftovers() == []


def test_a_board_with_an_old_python(board, install) -> None:
    install.program(board, "python3", "#!/bin/sh\necho 3.7\n")
    with (
        SshTarget(board.destination) as target,
        pytest.raises(TargetError, match=r"has Python 3\.7; .* 3\.9 or newer"),
    ):
        target.identify()
    assert board.leftovers() == []


def test_a_board_without_a_program_of_every_linux(quick) -> None:
    (quick.bin / "timeout").unlink()
    with (
        SshTarget(quick.destination) as target,
        pytest.raises(TargetError, match="lacks the program timeout"),
    ):
        target.identify()
    assert quick.leftovers() == []


def test_a_board_without_numpy(board, install) -> None:
    install.python(board, flags="-I -S")
    with (
        SshTarget(board.destination) as target,
        pytest.raises(TargetError, match="has no numpy and no onnxruntime") as error,
    ):
        target.identify()
    assert "--bootstrap" in str(error.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("[" * 50_000, "could not describe the board"),
        ("[]", "could not describe the board"),
        ('{"cores": "many"}', "returned an invalid identity record: cores"),
        ('{"memory_bytes": 1e300}', "returned an invalid identity record: memory_bytes"),
    ],
)
def test_a_board_that_describes_itself_falsely(board, install, answer, message) -> None:
    (board.home / "answer").write_text(answer)
    install.python(board, instead={"*importlib.util*": 'cat "$HOME/answer"; exit 0'})
    with (
        SshTarget(board.destination) as target,
        pytest.raises(TargetError, match=message) as error,
    ):
        target.identify()
    assert error.value.exit_code == 4
    assert board.leftovers() == ["answer"]


def test_bootstrap_is_for_arm(board, install) -> None:
    install.python(board, flags="-I -S")
    with (
        SshTarget(board.destination, bootstrap=True) as target,
        pytest.raises(TargetError, match="for 64-bit ARM"),
    ):
        target.identify()


def test_a_runtime_that_dies_when_it_is_imported(board, install) -> None:
    install.python(
        board,
        instead={"*'import numpy, onnxruntime'*|*import\\ numpy,\\ onnxruntime": "kill -ILL $$"},
    )
    with (
        SshTarget(board.destination) as target,
        pytest.raises(TargetError, match=r"cannot be imported .* dies of SIGILL"),
    ):
        target.identify()


# --- a job that fails ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("SEGV", ""),
        ("KILL", "it ran out of memory"),
        ("ILL", "uses instructions that the processor lacks"),
    ],
)
def test_a_runtime_that_crashes_is_reported_with_its_signal_and_phase(
    board, install, tiny, name: str, advice: str
) -> None:
    install.python(
        board, instead={"*--worker*": f"kill -{name} $$", JOB: install.through_itself(board)}
    )
    with SshTarget(board.destination) as target:
        reply = target.run(tiny.job(), tiny.files(tiny.int8))
    with pytest.raises(TargetError, match=f"was terminated by SIG{name} during 'start'") as error:
        raise_failure(reply, source=board.destination)
    assert advice in str(error.value)
    assert error.value.exit_code == 4


def test_running_out_of_memory_is_reported(quick, tiny, tmp_path: Path) -> None:
    onnx.save(hungry_model(), tmp_path / "hungry.onnx")
    job = tiny.job(memory_limit_bytes=2**30, phases=["steady"])
    with SshTarget(quick.destination) as target:
        reply = target.run(job, tiny.files(tmp_path / "hungry.onnx"))
    assert reply.error is not None
    assert (reply.ok, reply.error.kind, reply.phase) == (False, "memory", "first call tiny")
    with pytest.raises(TargetError, match="during 'first call tiny'") as error:
        raise_failure(reply, source=quick.destination)
    assert "it ran out of memory: try the int8 model" in str(error.value)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("kill -KILL $$", "the runner was killed there.*: most likely the board ran out of memory"),
        ("kill -BUS $$", "the runner was terminated there by SIGBUS"),
        (
            "echo no space left >&2; exit 5",
            r"exited with status 5 and wrote no reply \(no space left\)",
        ),
        ("exit 0", "exited with status 0 and wrote no reply"),
        (
            "printf 'not JSON' > reply.json; exit 0",
            "sent an unreadable reply.*begins with 'not JSON'",
        ),
        ('printf \'{"format": 1, "ok": tr\' > reply.json; exit 0', "sent an unreadable reply"),
        ("printf '{\"format\": NaN}' > reply.json; exit 0", "sent an unreadable reply.*NaN"),
        ("printf '[]' > reply.json; exit 0", "sent an invalid reply"),
        (
            f"truncate -s {MAX_REPLY_BYTES + 1} reply.json; exit 0",
            f"has a reply of {MAX_REPLY_BYTES + 1} bytes, which was not fetched",
        ),
    ],
)
def test_every_missing_or_invalid_reply_has_its_own_message(
    board, install, tiny, action: str, message: str
) -> None:
    install.python(board, instead={JOB: action})
    with SshTarget(board.destination) as target, pytest.raises(TargetError, match=message) as error:
        target.run(tiny.job(), tiny.files(tiny.int8))
    assert error.value.exit_code == 4
    assert board.leftovers() == []


def test_a_reply_cannot_affect_this_terminal(board, install, tiny) -> None:
    evil = (
        '{"format": 1, "ok": false, "phase": "load\\u001b[2J", "runner_sha256": "x", '
        '"error": {"kind": "exit", "phase": "load", "message": "gone\\u001b]0;pwned\\u0007", '
        '"details": "\\u001b[31mred"}}'
    )
    (board.home / "evil").write_text(evil)
    install.python(board, instead={JOB: 'cat "$HOME/evil" > reply.json; exit 0'})
    with SshTarget(board.destination) as target, pytest.raises(TargetError) as error:
        raise_failure(target.run(tiny.job(), tiny.files(tiny.int8)), source="board")
    assert "gone?]0;pwned? during 'load' (?[31mred)" in str(error.value)


def test_a_truncated_reply_is_detected_by_its_digest(quick, install, tiny) -> None:
    install.program(
        quick,
        "cat",
        f'#!/bin/sh\ncase "$1" in */reply.json) echo half; exit 0;; esac\nexec {CAT} "$@"\n',
    )
    with (
        SshTarget(quick.destination) as target,
        pytest.raises(
            TargetError, match=r"transfer of reply\.json incomplete: sha256 mismatch after 5 bytes"
        ),
    ):
        target.run(tiny.job(), tiny.files(tiny.int8))


def test_a_corrupt_file_is_not_used(quick, install, tiny) -> None:
    install.program(quick, "sha256sum", "#!/bin/sh\necho 0000000  -\n")
    with (
        SshTarget(quick.destination) as target,
        pytest.raises(TargetError, match=r"transfer of runner\.py incomplete: sha256 mismatch"),
    ):
        target.run(tiny.job(), tiny.files(tiny.int8))
    assert quick.leftovers() == []


def test_a_job_that_does_not_end_is_stopped_there(board, install, tiny, monkeypatch) -> None:
    monkeypatch.setattr(ssh, "_GRACE_S", 0)
    install.python(board, instead={JOB: "echo $$ > ../../sleeper; exec sleep 61"})
    with (
        SshTarget(board.destination) as target,
        pytest.raises(TargetError, match="did not finish within 1 s and was stopped"),
    ):
        target.run(tiny.job(timeout_seconds=1), tiny.files(tiny.int8))
    assert not is_alive(int((board.home / "sleeper").read_text()))
    assert board.leftovers() == ["sleeper"]


def test_a_lost_connection_is_reported(board, install, tiny) -> None:
    # Ends the server's process of this session, as a board that is switched off would.
    walk = (
        'p=$PPID; while [ "$(ps -o comm= -p $p)" != sshd ]; '
        "do p=$(ps -o ppid= -p $p | tail -n 1); p=${p##* }; done"
    )
    install.python(board, instead={JOB: f"{walk}; kill -KILL $p; sleep 5"})
    with (
        SshTarget(board.destination) as target,
        pytest.raises(TargetError, match="was lost during a command"),
    ):
        target.run(tiny.job(), tiny.files(tiny.int8))


def test_ctrl_c_leaves_no_process_and_no_file(board, install, tiny) -> None:
    install.python(board, instead={JOB: "echo $$ > ../../sleeper; exec sleep 61"})
    files = tiny.files(tiny.int8)
    paths = {name: str(path) for name, path in files.items()}
    script = f"""
import shutil
import signal
from pathlib import Path
from edgedistil.runtime.protocol import Job
from edgedistil.runtime.ssh.target import SshTarget
signal.signal(signal.SIGINT, signal.default_int_handler)
job = Job.model_validate_json({tiny.job().model_dump_json()!r})
files = {{name: Path(path) for name, path in {paths!r}.items()}}
with SshTarget({board.destination!r}) as target:
    target.run(job, files)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)
    sleeper = board.home / "sleeper"
    wait_until(lambda: sleeper.exists() and sleeper.read_text().strip() != "", process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert b"KeyboardInterrupt" in stderr
    assert not is_alive(int(sleeper.read_text()))
    assert board.leftovers() == ["sleeper"]


def test_a_kill_leaves_no_process_and_no_file_here_or_there(
    board, install, tiny, tmp_path: Path
) -> None:
    install.python(board, instead={JOB: "echo $$ > ../../sleeper; exec sleep 61"})
    paths = {name: str(path) for name, path in tiny.files(tiny.int8).items()}
    script = f"""
from pathlib import Path
from edgedistil.runtime.protocol import Job
from edgedistil.runtime.ssh.target import SshTarget
job = Job.model_validate_json({tiny.job().model_dump_json()!r})
files = {{name: Path(path) for name, path in {paths!r}.items()}}
with SshTarget({board.destination!r}) as target:
    target.run(job, files)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment)
    sleeper = board.home / "sleeper"
    wait_until(lambda: sleeper.exists() and sleeper.read_text().strip() != "", process)
    process.kill()
    process.wait()
    assert not is_alive(int(sleeper.read_text()))
    # The removal runs on the board.
    for _ in range(100):
        if board.leftovers() == ["sleeper"]:
            break
        time.sleep(0.05)
    assert board.leftovers() == ["sleeper"]
    clients = subprocess.run(
        ["pgrep", "-f", f"ssh.*-S {tmp_path}"], capture_output=True, text=True, check=False
    )
    assert clients.stdout == ""


CAT = "/bin/cat"


def hungry_model() -> onnx.ModelProto:
    """Takes token ids, and 5.6 GB for 2 × 7 of them."""
    far = numpy_helper.from_array(np.array([100_000_000, 1]), "far")
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["shape"]),
        helper.make_node("Mul", ["shape", "far"], ["wide"]),
        helper.make_node("ConstantOfShape", ["wide"], ["zeros"]),
        helper.make_node("ReduceMax", ["zeros"], ["last_hidden_state"], keepdims=0),
    ]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [])
    graph = helper.make_graph(nodes, "hungry", [ids], [output], [far])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def is_alive(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True


def wait_until(condition, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, "the process ended before the job started"
        time.sleep(0.05)
    pytest.fail("the job did not start")
