"""Attended tokens a second of a distillation step, ours beside the way the paper's scripts work.

    python benchmarks/distill_throughput.py --corpus TEXT [--rounds 5] [--threads 2] [--write benchmarks/results]

BERT-base teaches DistilBERT; both have random weights, which cost the same as trained ones. TEXT is a file of real
text, a sequence a line (.txt, .gz, .zst). One process runs the variants in turn, round by round, and medians are
taken of rounds; peak memory is that of a fresh process for each variant. A step is forward of both, backward, clipping,
AdamW.

    reference      float32, logits of every position from both models, masked_select, padded lines in length groups
    same           the same lines, padding, positions and losses through edgedistil's engine in bfloat16
    packed         full blocks, soft-target loss at the masked positions, bfloat16
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import BertConfig, BertForMaskedLM, DistilBertForMaskedLM

from edgedistil.core.assets import cache_root
from edgedistil.core.recipe import Loss
from edgedistil.core.records import this_host
from edgedistil.data.masking import IGNORED, mask_bert, row_generator
from edgedistil.distill.losses import count_tokens, distillation_loss
from edgedistil.distill.memory import retain_freed_memory
from edgedistil.models.fast.encoder import encode, encode_with_head, freeze_teacher, mlm_head
from edgedistil.models.fast.projection import SLICE_TOKENS
from edgedistil.models.student import alternate_layers, make_student
from edgedistil.models.teacher import load_teacher

SOFT, MLM, COSINE, T = 5.0, 2.0, 1.0, 2.0
VARIANTS = ("reference", "same", "packed")


@dataclass(frozen=True)
class Batch:
    input_ids_BL: Tensor
    attention_mask_BL: Tensor
    labels_BL: Tensor

    @property
    def attended(self) -> int:
        return int(self.attention_mask_BL.sum())


# --- the reference: the way the paper's scripts work -----------------------------------------------------------


def reference_losses(
    student: DistilBertForMaskedLM, teacher: BertForMaskedLM, batch: Batch
) -> tuple[Tensor, Tensor, Tensor]:
    """Soft-target, MLM and cosine loss from full logits of both models, selected afterwards."""
    given = {
        "input_ids": batch.input_ids_BL,
        "attention_mask": batch.attention_mask_BL,
        "output_hidden_states": True,
    }
    of_student = student(**given)
    with torch.no_grad():
        of_teacher = teacher(**given)
    vocabulary = of_student.logits.shape[-1]
    attended = batch.attention_mask_BL.unsqueeze(-1).bool()
    student_NV = torch.masked_select(of_student.logits, attended.expand_as(of_student.logits)).view(
        -1, vocabulary
    )
    teacher_NV = torch.masked_select(of_teacher.logits, attended.expand_as(of_teacher.logits)).view(
        -1, vocabulary
    )
    divergence = nn.KLDivLoss(reduction="batchmean")
    soft = divergence((student_NV / T).log_softmax(-1), (teacher_NV / T).softmax(-1)) * T**2
    entropy = nn.CrossEntropyLoss(ignore_index=IGNORED)
    mlm = entropy(of_student.logits.view(-1, vocabulary), batch.labels_BL.view(-1))
    hidden_S, hidden_T = of_student.hidden_states[-1], of_teacher.hidden_states[-1]
    student_ND = torch.masked_select(hidden_S, attended.expand_as(hidden_S)).view(
        -1, hidden_S.shape[-1]
    )
    teacher_ND = torch.masked_select(hidden_T, attended.expand_as(hidden_T)).view(
        -1, hidden_T.shape[-1]
    )
    cosine = nn.CosineEmbeddingLoss()(student_ND, teacher_ND, torch.ones(len(student_ND)))
    return soft, mlm, cosine


# --- ours ------------------------------------------------------------------------------------------------------


def our_losses(
    student: DistilBertForMaskedLM, teacher: BertForMaskedLM, batch: Batch, *, positions: str
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """The total to go backward from, and the three means."""
    counts = count_tokens(batch.labels_BL, batch.attention_mask_BL)
    settings = Loss(
        soft_target=SOFT,
        mlm=MLM,
        cosine=COSINE,
        temperature=T,
        positions="all" if positions == "all" else "masked",
    )
    mask_BL = None if counts.attended == batch.labels_BL.numel() else batch.attention_mask_BL
    with torch.no_grad():
        taught_BLD = encode(teacher, batch.input_ids_BL, mask_BL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        student_BLD, student_head = encode_with_head(student, batch.input_ids_BL, mask_BL)
        loss = distillation_loss(
            student_BLD, taught_BLD,
            student_head=student_head, teacher_head=mlm_head(teacher), labels_BL=batch.labels_BL,
            attention_mask_BL=mask_BL, counts=counts, settings=settings,
        )  # fmt: skip
    soft_tokens = counts.soft_target(settings)
    means = (
        loss.soft_target_sum / soft_tokens,
        loss.mlm_sum / counts.masked,
        loss.cosine_sum / counts.attended,
    )
    return loss.total, means


# --- models, batches, steps --------------------------------------------------------------------------------------


def make_models(variant: str) -> tuple[DistilBertForMaskedLM, BertForMaskedLM]:
    torch.manual_seed(5)
    teacher = BertForMaskedLM(BertConfig()).eval()
    student = make_student(
        teacher, layer_map=alternate_layers(12), init="teacher", fold_segment=False, copy_head_transform=False,
        freeze_positions=False, dropout=0.1, seed=6,
    )  # fmt: skip
    return student, teacher if variant == "reference" else freeze_teacher(
        teacher, dtype=torch.bfloat16
    )


def make_step(variant: str) -> Callable[[Batch], None]:
    student, teacher = make_models(variant)
    fused = variant != "reference"
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=1e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.0, fused=fused
    )

    def step(batch: Batch) -> None:
        if variant == "reference":
            soft, mlm, cosine = reference_losses(student, teacher, batch)
            total = SOFT * soft + MLM * mlm + COSINE * cosine
        else:
            total, _ = our_losses(
                student, teacher, batch, positions="all" if variant == "same" else "masked"
            )
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


class Text:
    """Batches out of real text, as padded lines of like length or as full blocks."""

    def __init__(self, corpus: Path, *, sequences: int, length: int, lines: int) -> None:
        self._tokenizer = load_teacher("asset:minilm", revision=None, cache=cache_root()).tokenizer
        self._sequences, self._length = sequences, length
        encoded = self._tokenizer.backend_tokenizer.encode_batch(
            _read_lines(corpus, lines), add_special_tokens=False
        )
        ids = [each.ids for each in encoded]
        inner = length - 2
        pieces = [
            line[start : start + inner] for line in ids for start in range(0, len(line), inner)
        ]
        kept = sorted(
            (piece for piece in pieces if len(piece) > 9), key=lambda piece: len(piece) // 4
        )
        self._lines = [
            kept[start : start + sequences]
            for start in range(0, len(kept) - sequences + 1, sequences)
        ]
        stream = [token for line in ids for token in line]
        self._blocks = [
            stream[start : start + inner] for start in range(0, len(stream) - inner + 1, inner)
        ]
        self._order = np.random.default_rng(7).permutation(len(self._lines))

    def batch(self, number: int, *, packed: bool) -> Batch:
        rows = (
            [
                self._blocks[(number * self._sequences + index) % len(self._blocks)]
                for index in range(self._sequences)
            ]
            if packed
            else self._lines[self._order[number % len(self._lines)]]
        )
        of = self._tokenizer
        longest = max(len(row) for row in rows) + 2
        ids_BL = torch.full((len(rows), longest), of.pad_token_id)
        for index, row in enumerate(rows):
            ids_BL[index, : len(row) + 2] = torch.tensor([of.cls_token_id, *row, of.sep_token_id])
        mask_BL = (ids_BL != of.pad_token_id).long()
        masked = mask_bert(
            ids_BL, mask_BL, generator=row_generator(8, number, range(len(rows))), share=0.15,
            mask_id=of.mask_token_id, vocabulary=len(of), special_ids=of.all_special_ids,
        )  # fmt: skip
        return Batch(masked.input_ids_BL, mask_BL, masked.labels_BL)

    def attended_share(self) -> float:
        batches = [self.batch(number, packed=False) for number in range(50)]
        return sum(b.attended for b in batches) / sum(b.input_ids_BL.numel() for b in batches)


def _read_lines(corpus: Path, lines: int) -> list[str]:
    if corpus.suffix == ".zst":
        import zstandard

        opened: io.TextIOBase = io.TextIOWrapper(zstandard.open(corpus, "rb"), encoding="utf-8")
    elif corpus.suffix == ".gz":
        import gzip

        opened = io.TextIOWrapper(gzip.GzipFile(corpus), encoding="utf-8")
    else:
        opened = corpus.open(encoding="utf-8")
    with opened as file:
        return [line.strip() for line, _ in zip(file, range(lines), strict=False)]


# --- measuring ---------------------------------------------------------------------------------------------------


def measure(text: Text, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Attended tokens a second of wall and of processor time, per variant and round, the variants in turn."""
    steps = {variant: make_step(variant) for variant in VARIANTS}
    rates: dict[str, dict[str, list[float]]] = {
        variant: {"wall": [], "cpu": []} for variant in VARIANTS
    }
    for number in range(-1, rounds):  # round -1 warms up
        for variant, step in steps.items():
            batch = text.batch(number + 1, packed=variant == "packed")
            with nullcontext() if variant == "reference" else retain_freed_memory():
                if variant != "reference" and number < 0:
                    step(batch)
                wall, cpu = time.perf_counter(), time.process_time()
                step(batch)
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if number >= 0:
                rates[variant]["wall"].append(batch.attended / wall)
                rates[variant]["cpu"].append(batch.attended / cpu)
            print(f"  {variant}: {batch.attended / wall:.0f} tokens/s", file=sys.stderr, flush=True)
    return rates


def compare_values(text: Text) -> dict[str, list[float]]:
    """The three losses of one batch without dropout: the reference in float32, ours in bfloat16."""
    batch = text.batch(3, packed=False)
    student, teacher = make_models("reference")
    with torch.no_grad():
        reference = reference_losses(student.eval(), teacher, batch)
    student, teacher = make_models("same")
    _, ours = our_losses(student.eval(), teacher, batch, positions="all")
    return {
        "reference": [float(part) for part in reference],
        "same": [float(part) for part in ours],
    }


def shares(variant: str, text: Text) -> dict[str, float]:
    """Share of a step's time in the products of the encoders, of the projection, of attention, and in the rest.

    The rest is the steps' whole wall-clock time less the products, so Python and everything between operators is in it.
    The teacher's attention is one operator: its softmax counts as product, the student's counts as rest. On one thread:
    with several, an operator's time is also that of waiting for the others, which other work on the machine decides.
    """
    step = make_step(variant)
    batches = [text.batch(number, packed=variant == "packed") for number in range(1, 5)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with retain_freed_memory():
        step(batches[0])
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
            began, cpu = time.perf_counter(), time.process_time()
            for batch in batches[1:]:
                step(batch)
            total, cpu = (time.perf_counter() - began) * 1e6, time.process_time() - cpu
    torch.set_num_threads(threads)
    found: dict[str, float] = {"encoder": 0.0, "projection": 0.0, "attention": 0.0}
    by_name: dict[str, float] = {}
    words = {30522, SLICE_TOKENS, 30522 % SLICE_TOKENS}
    for event in profiled.key_averages(group_by_input_shape=True):
        if event.key in {"aten::mm", "aten::addmm", "aten::addmm_", "mkldnn::_linear_pointwise"}:
            of_words = any(
                dimension in words for shape in event.input_shapes for dimension in shape
            )
            kind = "projection" if of_words else "encoder"
        elif event.key == "aten::bmm" or "scaled_dot_product" in event.key:
            kind = "attention"
        else:
            by_name[event.key] = by_name.get(event.key, 0.0) + event.self_cpu_time_total
            continue
        found[kind] += event.self_cpu_time_total
    largest = sorted(by_name.items(), key=lambda item: -item[1])[:12]
    return {
        **{kind: spent / total for kind, spent in found.items()},
        "overhead": 1 - sum(found.values()) / total,
        "attended tokens/s of processor time": sum(batch.attended for batch in batches[1:]) / cpu,
        **{f"  {name}": spent / total for name, spent in largest},
    }


def peak_bytes(variant: str, text: Text, arguments: argparse.Namespace) -> int:
    """Peak resident memory of a fresh process that makes the models and takes two steps; it reads no text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "batches.pt"
        batches = [text.batch(number, packed=variant == "packed") for number in range(2)]
        torch.save([(b.input_ids_BL, b.attention_mask_BL, b.labels_BL) for b in batches], path)
        command = [
            *(
                sys.executable,
                __file__,
                "--corpus",
                str(arguments.corpus),
                "--threads",
                str(arguments.threads),
            ),
            *("--only", variant, "--batches", str(path)),
        ]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return int(json.loads(done.stdout)["peak_bytes"])


def run_alone(variant: str, path: Path) -> None:
    batches = [Batch(*parts) for parts in torch.load(path, weights_only=True)]
    step = make_step(variant)
    with nullcontext() if variant == "reference" else retain_freed_memory():
        for batch in batches:
            step(batch)
    print(json.dumps({"peak_bytes": _peak_of_this_process()}))


def _peak_of_this_process() -> int:
    """VmHWM, not getrusage's ru_maxrss: that one starts at what the parent held when it started us."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(
        int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")
    )


# --- telling -------------------------------------------------------------------------------------------------------


def tell(arguments: argparse.Namespace, text: Text) -> str:
    rates = measure(text, arguments.rounds)
    values = compare_values(text)
    peaks = {variant: peak_bytes(variant, text, arguments) for variant in VARIANTS}
    host, now = this_host(), datetime.now(UTC)
    median = {
        variant: {kind: statistics.median(r) for kind, r in rates[variant].items()}
        for variant in VARIANTS
    }
    lines = [
        f"# Distillation step, BERT-base → DistilBERT, {now:%Y-%m-%d}",
        "",
        f"{host.cpu}, {arguments.threads} of {host.cores} cores, {host.system}, Python {host.python}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}.",
        f"Command: `python benchmarks/distill_throughput.py --corpus {arguments.corpus.name} "
        f"--rounds {arguments.rounds} "
        f"--sequences {arguments.sequences} --length {arguments.length} --threads {arguments.threads}`",
        f"Load of the machine when it ended: {' '.join(Path('/proc/loadavg').read_text().split()[:3])}. Medians of "
        f"{arguments.rounds} rounds in turn; {arguments.sequences} sequences of at most {arguments.length} tokens "
        f"a step, {text.attended_share():.0%} of the padded positions attended.",
        "",
        "| variant | attended tokens/s | × reference | tokens/s of processor time | × | peak memory MiB | × |",
        "|---|---|---|---|---|---|---|",
    ]
    for variant in VARIANTS:
        own, base, peak = median[variant], median["reference"], peaks[variant]
        lines.append(
            f"| {variant} | {own['wall']:.0f} | {own['wall'] / base['wall']:.2f} | {own['cpu']:.0f} "
            f"| {own['cpu'] / base['cpu']:.2f} | {peak / 2**20:.0f} | {peak / peaks['reference']:.2f} |"
        )
    lines += ["", "Losses of one batch without dropout (soft-target, MLM, cosine):", ""]
    lines += [f"- {name}: {', '.join(f'{v:.5f}' for v in found)}" for name, found in values.items()]
    lines += told_shares(text)
    lines += ["", "Rounds, attended tokens/s:", ""]
    lines += [
        f"- {variant}: {', '.join(f'{rate:.0f}' for rate in rates[variant]['wall'])}"
        for variant in VARIANTS
    ]
    return "\n".join(lines) + "\n"


def told_shares(text: Text) -> list[str]:
    where = {variant: shares(variant, text) for variant in ("same", "packed")}
    lines = [
        "",
        "Where the time of a step goes (profiler, one thread, shares of wall-clock time; three steps):",
        "",
    ]
    lines += ["| | same | packed |", "|---|---|---|"]
    for kind in dict.fromkeys([*where["same"], *where["packed"]]):
        cells = (where[variant].get(kind, 0.0) for variant in ("same", "packed"))
        lines.append(
            f"| {kind} | " + " | ".join(f"{c:.1%}" if c <= 1 else f"{c:,.0f}" for c in cells) + " |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--corpus", type=Path, required=True, help="text, a sequence a line; .txt, .gz or .zst"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sequences", type=int, default=16, help="of a step")
    parser.add_argument("--length", type=int, default=128, help="most tokens of a sequence")
    parser.add_argument("--lines", type=int, default=3000, help="of the corpus that are read")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--write", type=Path, help="folder for the dated result file")
    parser.add_argument("--shares", action="store_true", help="only where the time goes")
    parser.add_argument("--only", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--batches", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        run_alone(arguments.only, arguments.batches)
        return
    text = Text(
        arguments.corpus,
        sequences=arguments.sequences,
        length=arguments.length,
        lines=arguments.lines,
    )
    if arguments.shares:
        print("\n".join(told_shares(text)))
        return
    told = tell(arguments, text)
    print(told)
    if arguments.write:
        arguments.write.mkdir(parents=True, exist_ok=True)
        (arguments.write / f"distill_throughput-{datetime.now(UTC):%Y-%m-%d}.md").write_text(
            told, encoding="utf-8"
        )


if __name__ == "__main__":
    main()
