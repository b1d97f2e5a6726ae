"""Prove that a refactor changes no result: run two checkouts on the same work and compare.

    python scripts/compare_checkouts.py BEFORE AFTER --work DIR                # both, and compare
    python scripts/compare_checkouts.py BEFORE AFTER --work DIR --only before  # keep the results
    python scripts/compare_checkouts.py BEFORE AFTER --work DIR --only after   # compare with those

Each checkout distils, evaluates, exports, predicts and reports in a scratch folder of its own, as a
user would: one subprocess a command. They share nothing but the downloaded packages, so each side
fits its own teacher. Losses, weights, scores, ONNX files and figures have to be equal bit for bit.
Exit code 0: all the same; 1: something differs (it is named); 2: they could not be compared.
"""

from __future__ import annotations

import argparse
import ast
import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx

# Names that were changed on purpose, old -> new: complete words in file names and JSON keys of
# BEFORE, and JSON strings that equal the old name.
RENAMED: dict[str, str] = {
    "above_floor": "retention_above_baseline",
    "above_floor_low": "retention_above_baseline_low",
    "above_floor_high": "retention_above_baseline_high",
    "floor": "baseline",
    "floor_is": "baseline_rule",
}

# What is not compared, and why. The patterns are of "run/folder/file:/json/key".
IGNORED = {
    "*/checkpoints/*": "only the run itself reads them; the losses and final weights are compared",
    "*provenance*": "time, command line, versions and machine",
    "*/seconds": "wall-clock time",
    "*/tokens_per_s": "wall-clock time",
    "*/teacher/fit.json:/format": "version of the cache of fitted heads, raised with a rule",
    "*distill*/peak_memory_bytes": "memory that was measured",
    "*/recipe_sha256": "digest of names and defaults of settings, which may be renamed",
    "*/cache_key": "digest of names of settings, which may be renamed",
    "*/evaluate/*:/key": "digest of names of settings, which may be renamed",
    "*/cached_at": "a path",
    "*/reasons*": "free text under free titles",
    "*/conditions*": "free text under free titles",
    "*/notes*": "free text",
    "*/warnings*": "free text",
    "*/session.json:*/enable_cpu_mem_arena": "onnxruntime's default, now written too",
    # The digest covers the pooler that transformers draws at random for an encoder without one.
    "*/teacher-feature-extraction/export.*.json:/source_sha256": "random at abd8d9e",
    "*/teacher-feature-extraction.probes.npz:/head": "holds that digest",
    "*/report.json:/records/exports/*/source_sha256": "the same digest",
}
# Of a string with a space in it only that it is there is compared: it is prose. But:
VERDICTS = {"verdict", "word", "bound"}  # JSON keys whose words are results
FIGURES = {"figure"}  # JSON keys whose text holds figures ("23% fewer parameters"): its numbers

# JSON that other libraries read is compared byte for byte; all other JSON is our own records.
FOREIGN = {"config", "modules", "sentence_bert_config", "special_tokens_map", "tokenizer"}
FOREIGN |= {"tokenizer_config"}

# The two learning rates make a student whose most likely words are clear enough for int4's gate.
RECIPE = """
name = "compare"
[teacher]
source = "asset:minilm"
mlm_head = "fit"
[teacher.fit]
steps = 6
batch_tokens = 512
learning_rate = 1e-5
[corpus]
block_length = 32
[[corpus.sources]]
files = "docstrings.txt"
[train]
precision = "float32"
steps = 6
global_batch = 8
micro_batch = 4
learning_rate = 5e-4
evaluate_every = 3
heldout_tokens = 1024
keep_checkpoints = 1
"""
TASK = """
train_limit = 96
dev_limit = 48
[training]
epochs = 1
batch = 8
learning_rate = 3e-4
max_length = 32
source = "chosen to be short"
[files]
train = "train.csv"
dev = "dev.csv"
"""
TASKS = {  # classes, and a value, whose predictions show every bit
    "package": 'kind = "classification"\nmetric = "accuracy"\n' + TASK + 'label = "package"\n',
    "is-tkinter": 'kind = "regression"\nmetric = "pearson"\n' + TASK + 'label = "is_tkinter"\n',
}


def commands(fp32: str) -> dict[str, str]:
    """List the commands in order. Every random draw comes from the recipe's seed or --seeds.

    Args:
        fp32: What this checkout's `export --quantize` calls float32.
    """
    precisions = (fp32, "fp16", "int8", "uint8", "int8-static", "int4")
    return {
        "distil float32": "distill recipe.toml --run float32",
        "distil masked": "distill recipe.toml --run masked --set loss.positions=masked",
        # Two small steps: bfloat16 is slow on a CPU that has no instructions for it.
        "distil bfloat16": "distill recipe.toml --run bfloat16 --set train.precision=bfloat16"
        " --set loss.positions=masked --set train.heldout_tokens=256 --set train.steps=2"
        " --set train.global_batch=4 --set train.micro_batch=2",
        "evaluate": "evaluate --run float32 --seeds 2 --model teacher --model student"
        " --model student-d" + "".join(f" --task {task}.toml" for task in TASKS),
        "export": "export --run float32"
        + "".join(f" --quantize {precision}" for precision in precisions),
        "profile rpi4": "profile --run float32 --device rpi4 --length 16 --length 64",
        "profile graviton2": "profile --run float32 --device graviton2 --length 16 --length 64",
        "report": "report --run float32",
    }


# --- running one checkout -------------------------------------------------------------------------


def run_checkout(checkout: Path, scratch: Path) -> dict[str, Any]:
    """Run all commands with a checkout's code; return the figures of all files that they left."""
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "cache").mkdir(parents=True)
    (scratch / "logs").mkdir()
    write_inputs(scratch)
    user_cache = os.environ.get("EDGEDISTIL_CACHE") or Path.home() / ".cache" / "edgedistil"
    assets = Path(user_cache).resolve() / "assets"
    assets.mkdir(parents=True, exist_ok=True)
    (scratch / "cache" / "assets").symlink_to(assets)  # downloads only, nothing that was computed
    env = os.environ | {
        "PYTHONPATH": str(checkout),
        "PYTHONDONTWRITEBYTECODE": "1",  # leaves the checkout as it is
        "PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "0"),
        "EDGEDISTIL_RUNS": str(scratch / "runs"),
        "EDGEDISTIL_CACHE": str(scratch / "cache"),
        "OMP_NUM_THREADS": "1",  # the order in which floats are summed depends on it
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
    }

    def python(name: str, *arguments: str) -> str:
        print(f"{checkout}: {name}", flush=True)
        log = scratch / "logs" / f"{name}.txt"
        with log.open("w", encoding="utf-8") as out:
            line = [sys.executable, *arguments]
            done = subprocess.run(line, cwd=scratch, env=env, stdout=out, stderr=out, check=False)
        text = log.read_text(encoding="utf-8")
        if done.returncode != 0:
            fail(f"'{name}' ended with code {done.returncode}; the end of {log}:\n{text[-2000:]}")
        return text

    imported = python("import", "-c", "import edgedistil; print(edgedistil.__file__)")
    if not Path(imported.splitlines()[-1]).resolve().is_relative_to(checkout):
        fail(f"python imports {imported}, which is not in {checkout}")
    offered = python("export --help", "-m", "edgedistil", "export", "--help")
    for name, command in commands("fp32" if "fp32" in offered else "none").items():
        python(name, "-m", "edgedistil", *command.split())
    return dict(read_runs(scratch / "runs"))


def write_inputs(folder: Path) -> None:
    """Write recipe, corpus and tasks; the text is what Python's standard library says of itself."""
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    corpus = [text for module in sorted(sys.stdlib_module_names) for text in docstrings(module)]
    (folder / "docstrings.txt").write_text("\n".join(corpus[::2]) + "\n", encoding="utf-8")
    rows = [
        (text, package, float(package == "tkinter"))
        for package in ("email", "tkinter")
        for text in dict.fromkeys(docstrings(package))
    ]
    for name, part in {"dev": rows[::4], "train": rows[1::4] + rows[2::4] + rows[3::4]}.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "package", "is_tkinter"), *part])
    for name, task in TASKS.items():
        (folder / f"{name}.toml").write_text(task, encoding="utf-8")


def docstrings(module: str) -> Iterator[str]:
    """Yield the paragraphs of a standard-library module's docstrings, one line each."""
    library = Path(sysconfig.get_paths()["stdlib"])
    file = library / f"{module}.py"
    for path in [file] if file.is_file() else sorted((library / module).rglob("*.py")):
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError:  # lib2to3 has broken files for its tests
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                    line = " ".join(paragraph.split())
                    if len(line) > 40:
                        yield line


# --- reading what it left -------------------------------------------------------------------------


def read_runs(runs: Path) -> Iterator[tuple[str, Any]]:
    """Yield ("run/folder/file:/json/key", value) for all that is compared below `runs`."""
    for path in sorted(path for path in runs.rglob("*") if path.is_file()):
        for key, value in read_file(path):
            item = f"{path.relative_to(runs)}:{key}"
            if not is_ignored(item):
                yield item, value


def read_file(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield a file's figures by its suffix; pages and settings (.md .html .toml) have none."""
    if path.suffix == ".json" and path.stem not in FOREIGN:
        yield from flatten(json.loads(path.read_text(encoding="utf-8")))
    elif path.suffix == ".jsonl":
        yield from flatten([json.loads(line) for line in path.read_text("utf-8").splitlines()])
    elif path.suffix == ".npz":  # by array: the file holds the time of day
        with np.load(path) as arrays:
            for name, array in arrays.items():
                digest = hashlib.sha256(array.tobytes()).hexdigest()
                yield f"/{name}", f"{array.dtype} {array.shape} {digest}"
    elif path.suffix in {".json", ".safetensors", ".onnx", ".onnx_data", ".txt"}:
        with path.open("rb") as file:
            yield "/sha256", hashlib.file_digest(file, "sha256").hexdigest()
        if path.suffix == ".onnx":
            yield "/computation", computation_sha256(path)


def flatten(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ("/key/0/key", leaf) for every leaf of a JSON value, with "(text)" for prose."""
    if isinstance(value, dict | list) and value:
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flatten(item, f"{key}/{name}")
        return
    last = key.rpartition("/")[2]
    if isinstance(value, str) and " " in value and last not in VERDICTS:
        numbers = re.findall(r"\d+(?:\.\d+)?", value) if last in FIGURES else []
        value = " ".join(["(text)", *numbers])
    yield key, value


def computation_sha256(path: Path) -> str:
    """Digest what an ONNX graph computes: operators, attributes, wiring and weights.

    Names of inner values and nodes, documentation and the places of weights in the external data
    are left out: if a file differs and its computation does not, only these have changed.
    """
    model = onnx.load(path)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    numbers: dict[str, str] = {item.name: item.name for item in model.graph.input}
    opsets = [(item.domain, item.version) for item in model.opset_import]
    digest = hashlib.sha256(repr(opsets).encode())

    def number(name: str) -> str:
        if name in weights and name not in numbers:
            weight = onnx.TensorProto()
            weight.CopyFrom(weights[name])
            weight.name = weight.doc_string = ""
            digest.update(weight.SerializeToString(deterministic=True))
        return numbers.setdefault(name, str(len(numbers)))

    for node in model.graph.node:
        wires = [[name and number(name) for name in side] for side in (node.input, node.output)]
        digest.update(repr((node.domain, node.op_type, wires)).encode())
        for attribute in sorted(node.attribute, key=lambda item: item.name):
            digest.update(attribute.SerializeToString(deterministic=True))
    digest.update(repr([(item.name, number(item.name)) for item in model.graph.output]).encode())
    return digest.hexdigest()


# --- comparing ------------------------------------------------------------------------------------


def compare(before: dict[str, Any], after: dict[str, Any]) -> int:
    """Print a table with a row for each kind of file, and what differs; return the exit code."""
    before = {rename(item): RENAMED.get(str(value), value) for item, value in before.items()}
    before, after = compared(before), compared(after)
    rows = defaultdict(list)
    for item in sorted(before.keys() | after.keys()):
        rows[row_of(item)].append(item)
    width = max(map(len, rows))
    first_of_rows = []
    print(f"\n{'what':{width}}  {'before':20}  {'after':20}")
    for row, items in rows.items():
        different = [item for item in items if written(before, item) != written(after, item)]
        verdict = f"DIFFERENT: {len(different)} of {len(items)}" if different else "same"
        print(f"{row:{width}}  {summary(before, items):20}  {summary(after, items):20}  {verdict}")
        first_of_rows += different[:1]
    print("\nnot compared:", *(f"  {item}: {why}" for item, why in IGNORED.items()), sep="\n")
    for item in first_of_rows:
        print(f"\n{item}\n  before: {written(before, item)}\n  after:  {written(after, item)}")
    if first_of_rows:
        print(f"\nDIFFERENT; the first item that differs: {first_of_rows[0]}")
        return 1
    print(f"\nall {len(before)} items are the same")
    return 0


def compared(results: dict[str, Any]) -> dict[str, Any]:
    """Drop what IGNORED excludes: the stored results may be older than the list."""
    return {item: value for item, value in results.items() if not is_ignored(item)}


def is_ignored(item: str) -> bool:
    return any(fnmatchcase(item, pattern) for pattern in IGNORED)


def rename(item: str) -> str:
    """Apply RENAMED to the complete words of an item's name."""
    for old, new in RENAMED.items():
        item = re.sub(rf"(?<![\w-]){re.escape(old)}(?![\w-])", new, item)
    return item


def row_of(item: str) -> str:
    """Name an item's row: a file in the run's own folder, or a deeper folder and suffix."""
    path = Path(item.partition(":")[0])
    return str(path) if len(path.parts) == 2 else f"{path.parent}/*{path.suffix}"


def written(results: dict[str, Any], item: str) -> str:
    """Write a figure with every digit, or that it is missing."""
    return json.dumps(results[item]) if item in results else "(missing)"


def summary(results: dict[str, Any], items: list[str]) -> str:
    """Count and digest the items of a row, for comparison with an older table."""
    there = [(item, written(results, item)) for item in items if item in results]
    return f"{len(there)} items {hashlib.sha256(repr(there).encode()).hexdigest()[:8]}"


def machine() -> dict[str, str]:
    """Report what floats depend on except the code: processor, Python and libraries."""
    lines = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines())
    cpu = sorted(line for line in lines if line.startswith(("model name", "flags", "Features")))
    packages = ("torch", "transformers", "tokenizers", "onnx", "onnxruntime", "numpy")
    return {
        "processor": hashlib.sha256(repr((cpu, os.cpu_count())).encode()).hexdigest(),
        "python": sys.version,
        **{name: metadata.version(name) for name in packages},
    }


def fail(message: str) -> NoReturn:
    """Report why nothing can be compared, and exit with code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def main() -> int:
    """Run the sides that were asked for, compare where both are there; return the exit code."""
    parser = argparse.ArgumentParser(description="Compare the results of two checkouts.")
    parser.add_argument("before", type=Path, help="checkout with the code before the change")
    parser.add_argument("after", type=Path, help="checkout with the code after it")
    parser.add_argument("--work", type=Path, required=True, help="folder for results and scratch")
    parser.add_argument(
        "--only",
        choices=["before", "after", "neither"],
        help="run this side; compare stored results",
    )
    asked = parser.parse_args()
    work = asked.work.resolve()
    sides = {}
    for side in ("before", "after") if asked.only != "before" else ("before",):
        file = work / f"{side}.json"
        if asked.only in (None, side):
            results = run_checkout(getattr(asked, side).resolve(), work / f"scratch-{side}")
            text = json.dumps({"machine": machine(), "results": results}, indent=0)
            file.write_text(text + "\n", encoding="utf-8")
            print(f"{len(results)} items in {file}")
        elif not file.is_file():
            fail(f"{file} is not there: run with --only before first")
        sides[side] = json.loads(file.read_text(encoding="utf-8"))
    if len(sides) == 1:
        return 0
    if sides["before"]["machine"] != sides["after"]["machine"]:
        fail("the two sides ran on different processors or library versions: run both again")
    return compare(sides["before"]["results"], sides["after"]["results"])


if __name__ == "__main__":
    sys.exit(main())
