"""Compares the C++ tokenizer with the `tokenizers` library on random strings.

    python scripts/fuzz_tokenizer.py PROGRAM TOKENIZER.json [--count 1000000] [--seed 1]
        [--record FILE]

PROGRAM is `encode_lines` of a C++ bundle (`cmake --build build --target encode_lines`). Strings
come from all Unicode planes; a part of them has two texts. Ends with code 3 at the first string
with other ids, token types or offsets.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import random
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

CHUNK = 20_000
MAX_LENGTH = 24
# Ranges with rules of their own: they meet in one string more often than by pure chance.
RANGES = (
    (0x20, 0x7E),
    (0x00, 0x20),
    (0x7F, 0xFF),
    (0x100, 0x24F),
    (0x300, 0x36F),
    (0x370, 0x52F),
    (0x590, 0x6FF),
    (0x700, 0x8FF),
    (0x900, 0xDFF),
    (0xE00, 0x11FF),
    (0x1AB0, 0x1AFF),
    (0x1D00, 0x20FF),
    (0x2000, 0x206F),
    (0x2100, 0x2BFF),
    (0x3000, 0x30FF),
    (0x3400, 0x9FFF),
    (0xA000, 0xABFF),
    (0xAC00, 0xD7FF),
    (0xE000, 0xFFFF),
    (0x10000, 0x1FFFF),
    (0x1F1E6, 0x1F1FF),
    (0x1F300, 0x1FAFF),
    (0x20000, 0x3FFFF),
    (0xE0000, 0xE01EF),
    (0x0, 0x10FFFF),
)
WORDS = (
    *("the", "it's", "We'LL", "naïve", "İstanbul", "straße", "ΑΣ", "1,299.50", "``", "''", "don't"),
    *("\r\n", "  ", "\n\n", "\t ", "e\u0301", "\u0301", "ä\u0323", "한국어", "\u1112\u1161\u11ab"),
    *(
        "👩\u200d👩\u200d👧",
        "©\u200d",
        "\u0915\u094d\u0937",
        "\u0600",
        "ﬁ",
        "①",
        "\ufeff",
        "\u2581",
    ),
)


def random_strings(count: int, *, seed: int, special: list[str]) -> Iterator[str | tuple[str, str]]:
    """Yields strings, and pairs of strings, from all planes of Unicode.

    Args:
        count: Number of items.
        seed: The same seed gives the same strings.
        special: Tokens of the tokenizer that appear as text.
    """
    source = random.Random(seed)  # noqa: S311 - repeatable strings
    for number in range(count):
        text = _random_string(source, special)
        yield (text, _random_string(source, special)) if number % 10 == 9 else text


def _random_string(source: random.Random, special: list[str]) -> str:
    ranges = source.choices(RANGES, k=source.randint(1, 3))
    parts = []
    for _ in range(source.randint(0, MAX_LENGTH)):
        kind = source.random()
        if kind < 0.12:
            parts.append(source.choice(WORDS))
        elif kind < 0.16 and special:
            parts.append(source.choice(special))
        elif kind < 0.28:
            parts.append(" ")
        else:
            first, last = source.choice(ranges)
            parts.append(_character(source.randint(first, last)))
    return "".join(parts)


def _character(code: int) -> str:
    # Texts have no surrogates.
    return chr(code) if not 0xD800 <= code < 0xE000 else "\ufffd"


def compare(
    program: list[str], tokenizer_file: Path, strings: list[str | tuple[str, str]]
) -> str | None:
    """Returns a description of the first difference; None without one.

    Args:
        program: Command of `encode_lines`, with an emulator in front where one is needed.
        tokenizer_file: tokenizer.json.
        strings: Texts and pairs.
    """
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in strings)
    result = subprocess.run(
        [*program, str(tokenizer_file)], input=lines.encode(), capture_output=True, check=False
    )
    if result.returncode:
        return f"{program[-1]} ended with {result.returncode}: {result.stderr.decode()}"
    answers = result.stdout.splitlines()
    for item, encoding, line in zip(strings, tokenizer.encode_batch(strings), answers, strict=True):
        expected = [encoding.ids, encoding.type_ids, [list(span) for span in encoding.offsets]]
        got: Any = json.loads(line)
        if got != expected:
            return f"{item!a}\n  expected {expected}\n  got      {got}"
    return None


def add_piece(record: Path, tokenizer: Path, seed: int, count: int) -> None:
    """Adds a piece without a difference to the record of a tokenizer; the file is rewritten.

    Args:
        record: JSON file; created if it is missing.
        tokenizer: tokenizer.json.
        seed: Seed of the piece.
        count: Strings of the piece.
    """
    content: dict[str, Any] = {"tokenizers": version("tokenizers"), "pieces": []}
    if record.is_file():
        content = json.loads(record.read_text(encoding="utf-8"))
    described = json.loads(tokenizer.read_text(encoding="utf-8"))
    piece = {
        "tokenizer": tokenizer.parent.name,
        "model": described["model"]["type"],
        "sha256": hashlib.sha256(tokenizer.read_bytes()).hexdigest(),
        "seed": seed,
        "strings": count,
        "differences": 0,
        "machine": platform.machine(),
    }
    content["pieces"].append(piece)
    record.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Reads the arguments and compares in chunks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", type=Path, help="JSON file that gets a line for this piece")
    options = parser.parse_args()
    described = json.loads(options.tokenizer.read_text(encoding="utf-8"))
    special = [token["content"] for token in described.get("added_tokens") or []]
    done = 0
    while done < options.count:
        size = min(CHUNK, options.count - done)
        strings = list(random_strings(size, seed=options.seed + done, special=special))
        difference = compare([options.program], options.tokenizer, strings)
        if difference is not None:
            print(difference)
            sys.exit(3)
        done += size
    print(f"{done:,} strings: no difference")
    if options.record is not None:
        add_piece(options.record, options.tokenizer, options.seed, done)


if __name__ == "__main__":
    main()
