"""Environments of other libraries: each in a cache folder named by the hash of its content.

    python tests/interop/environments.py            builds what is missing, prints the folders
    python tests/interop/environments.py optimum    only this one

A finished environment is used as it is, without asking any registry: the second time needs no
network. `torch` is held to the version of constraints.txt, so that no second copy of it is fetched.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edgedistil.core.places import cache_root

ROOT = Path(__file__).resolve().parents[2]
TORCH = next(
    line
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line.startswith("torch==")
)
READY = ".ready"


@dataclass(frozen=True)
class Environment:
    """Packages of one client, and which program they are for."""

    name: str
    packages: tuple[str, ...]
    program: str = "python"

    @property
    def folder(self) -> Path:
        version = (
            f"{sys.version_info.major}.{sys.version_info.minor}" if self.program == "python" else ""
        )
        digest = hashlib.sha256(
            json.dumps([self.packages, self.program, version, TORCH]).encode()
        ).hexdigest()
        return cache_root() / "interop" / f"{self.name}-{digest[:12]}"

    @property
    def is_ready(self) -> bool:
        return (self.folder / READY).is_file()

    @property
    def executable(self) -> Path:
        """The interpreter that sees the packages."""
        return (
            self.folder / "bin" / "python"
            if self.program == "python"
            else Path(shutil.which("node") or "node")
        )


ENVIRONMENTS = {
    environment.name: environment
    for environment in (
        # The newest optimum-onnx needs transformers below 4.58, hence an environment of its own;
        # sentence-transformers'
        # ONNX backend is optimum-onnx, so it lives there too.
        Environment(
            "optimum",
            (
                "optimum-onnx==0.1.0",
                "transformers==4.57.6",
                "sentence-transformers==5.7.0",
                "onnxruntime==1.32.0",
                TORCH,
            ),
        ),
        Environment("plain", ("onnxruntime==1.32.0", "tokenizers==0.23.3", "numpy==2.4.6")),
        Environment("transformers.js", ("@huggingface/transformers@4.3.1",), program="node"),
    )
}


def build(environment: Environment) -> Path:
    """The environment's folder, built if it is not there yet.

    Raises:
        RuntimeError: The installer failed; holds the end of what it said.
    """
    if environment.is_ready:
        return environment.folder
    folder = environment.folder
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted build has left
    folder.mkdir(parents=True)
    print(f"building {folder}: {', '.join(environment.packages)}", file=sys.stderr)
    if environment.program == "python":
        _run([sys.executable, "-m", "venv", str(folder)])
        pip = [
            str(environment.executable),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        _run([*pip, *environment.packages])
    else:
        (folder / "package.json").write_text(
            '{"name": "interop", "private": true, "type": "module"}\n'
        )
        # The CPU runtime is in the package; its install script would only download one for a GPU.
        npm = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        _run([*npm, *environment.packages], cwd=folder)
    (folder / READY).touch()
    return folder


def _run(command: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env=clean_environment()
    )
    if done.returncode != 0:
        end = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{end}")


def clean_environment() -> dict[str, str]:
    """Ours without what would make a child look into this environment's packages."""
    return {
        key: value
        for key, value in os.environ.items()
        if key not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    }


if __name__ == "__main__":
    for name in sys.argv[1:] or list(ENVIRONMENTS):
        print(f"{name}: {build(ENVIRONMENTS[name])}")
