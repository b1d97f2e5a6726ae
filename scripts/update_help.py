"""Rewrites the help blocks of README.md and docs/ with what the program prints now: python scripts/update_help.py"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```console\n\$ (edgedistil[^\n]*)\n.*?^```$", re.MULTILINE | re.DOTALL)
WIDTH = {"COLUMNS": "100", "TERMINAL_WIDTH": "100"}  # tests/test_docs.py reads them at this width


def printed(command: str) -> str:
    program = str(Path(sys.executable).with_name("edgedistil"))
    done = subprocess.run(
        [program, *shlex.split(command)[1:]],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **WIDTH},
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def main() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        fresh = BLOCK.sub(lambda found: f"```console\n$ {found[1]}\n{printed(found[1])}\n```", text)
        if fresh != text:
            page.write_text(fresh, encoding="utf-8")
            print(f"updated {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
