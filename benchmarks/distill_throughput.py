"""Attended tokens per second of a distillation step: ours against the paper's way of computing it.

    python benchmarks/distill_throughput.py --corpus TEXT [--rounds 5] [--threads 2] \\
        [--write benchmarks/results]

Teacher BERT-base, student DistilBERT; both have random weights, which cost the same as trained
ones. TEXT is a file of real text, one sequence per line (.txt, .gz, .zst). One process runs the
variants in turn, round by round; figures are medians over the rounds. Peak memory is that of a
fresh process for each variant. A step is the forward pass of both models, the backward pass,
clipping and AdamW.

    reference    float32, logits of every position of both models, masked_select, padded lines of
                 similar length
    same         the same lines, padding, positions and losses through edgedistil's engine, bfloat16
    packed       full blocks, soft-target loss at the masked positions, bfloat16
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import transformers
from page import argument_parser, host_line, system_line, today, write_page, write_raw
from throughput_text import Batch, Text
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import BertConfig, BertForMaskedLM, DistilBertForMaskedLM

from edgedistil.core.recipe import Loss
from edgedistil.data.masking import IGNORED
from edgedistil.distill.losses import count_tokens, distillation_loss
from edgedistil.distill.memory import retain_freed_memory
from edgedistil.models.fast.encoder import encode, encode_with_head, freeze_teacher
from edgedistil.models.fast.projection import SLICE_TOKENS
from edgedistil.models.mlm_head import mlm_head
from edgedistil.models.student import StudentOptions, alternate_layers, make_student

Variant = Literal["reference", "same", "packed"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
# The paper's weights of the three losses, and its temperature.
SOFT_TARGET, MLM, COSINE, TEMPERATURE = 5.0, 2.0, 1.0, 2.0
VOCABULARY = 30_522
COLUMNS = (
    "variant",
    "attended tokens/s",
    "× reference",
    "tokens/s of CPU time",
    "×",
    "peak memory MiB",
    "×",
)

Losses = tuple[Tensor, Tensor, Tensor]


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        print_own_peak(arguments.only, arguments.batches)
        return
    text = Text(
        arguments.corpus,
        sequences=arguments.sequences,
        length=arguments.length,
        lines=arguments.lines,
    )
    if arguments.shares:
        print("\n".join(share_lines(shares_of_ours(text))))
        return
    measured = measure_all(arguments, text)
    page = render(arguments, text, measured)
    print(page)
    if arguments.write:
        write_page(arguments.write, "distill_throughput", page)
        write_raw(arguments.write, "distill_throughput", asdict(measured))


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--corpus", type=Path, required=True, help="text, one sequence per line; .txt, .gz or .zst"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sequences", type=int, default=16, help="sequences per step")
    parser.add_argument("--length", type=int, default=128, help="maximum tokens of a sequence")
    parser.add_argument("--lines", type=int, default=3000, help="lines to read from the corpus")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--write", type=Path, help="folder for the dated result page")
    parser.add_argument("--shares", action="store_true", help="only print where the time goes")
    # The child process of `peak_bytes`.
    parser.add_argument("--only", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--batches", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


# --- reference: the way the paper's scripts compute a step ---------------------------------------


def reference_losses(
    student: DistilBertForMaskedLM, teacher: BertForMaskedLM, batch: Batch
) -> Losses:
    """Soft-target, MLM and cosine loss from all logits of both models, selected afterwards."""
    inputs: dict[str, Any] = {
        "input_ids": batch.input_ids_BL,
        "attention_mask": batch.attention_mask_BL,
        "output_hidden_states": True,
    }
    student_outputs = student(**inputs)
    with torch.no_grad():
        teacher_outputs = teacher(**inputs)
    attended_BL = batch.attention_mask_BL.bool()

    student_NV = _select(student_outputs.logits, attended_BL)
    teacher_NV = _select(teacher_outputs.logits, attended_BL)
    divergence = nn.KLDivLoss(reduction="batchmean")
    soft_target = divergence(
        (student_NV / TEMPERATURE).log_softmax(-1), (teacher_NV / TEMPERATURE).softmax(-1)
    )
    entropy = nn.CrossEntropyLoss(ignore_index=IGNORED)
    mlm = entropy(student_outputs.logits.flatten(0, 1), batch.labels_BL.flatten())
    student_ND = _select(student_outputs.hidden_states[-1], attended_BL)
    teacher_ND = _select(teacher_outputs.hidden_states[-1], attended_BL)
    cosine = nn.CosineEmbeddingLoss()(student_ND, teacher_ND, torch.ones(len(student_ND)))
    return soft_target * TEMPERATURE**2, mlm, cosine


def _select(values_BLX: Tensor, attended_BL: Tensor) -> Tensor:
    """Rows at attended positions, shape (N, X), by masked_select as in the paper's scripts."""
    mask_BLX = attended_BL.unsqueeze(-1).expand_as(values_BLX)
    return torch.masked_select(values_BLX, mask_BLX).view(-1, values_BLX.shape[-1])


# --- ours ----------------------------------------------------------------------------------------


def our_losses(
    student: DistilBertForMaskedLM,
    teacher: BertForMaskedLM,
    batch: Batch,
    *,
    positions: Literal["all", "masked"],
) -> tuple[Tensor, Losses]:
    """Returns the total for the backward pass, and the mean of each loss."""
    settings = Loss(
        soft_target=SOFT_TARGET,
        mlm=MLM,
        cosine=COSINE,
        temperature=TEMPERATURE,
        positions=positions,
    )
    counts = count_tokens(batch.labels_BL, batch.attention_mask_BL)
    # A full block needs no mask, and attention without one is faster.
    mask_BL = None if counts.attended == batch.labels_BL.numel() else batch.attention_mask_BL
    with torch.no_grad():
        teacher_BLD = encode(teacher, batch.input_ids_BL, mask_BL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        student_BLD, student_head = encode_with_head(student, batch.input_ids_BL, mask_BL)
        loss = distillation_loss(
            student_BLD,
            teacher_BLD,
            student_head=student_head,
            teacher_head=mlm_head(teacher),
            labels_BL=batch.labels_BL,
            attention_mask_BL=mask_BL,
            counts=counts,
            settings=settings,
        )
    means = (
        loss.soft_target_sum / counts.soft_target(settings),
        loss.mlm_sum / counts.masked,
        loss.cosine_sum / counts.attended,
    )
    return loss.total, means


# --- models and steps ----------------------------------------------------------------------------


def make_models(variant: Variant) -> tuple[DistilBertForMaskedLM, BertForMaskedLM]:
    """Builds student and teacher; every variant starts from the same weights."""
    torch.manual_seed(5)
    teacher = BertForMaskedLM(BertConfig()).eval()
    student = make_student(
        teacher,
        layer_map=alternate_layers(12),
        options=StudentOptions(fold_segment=False, copy_head_transform=False, dropout=0.1, seed=6),
    )
    if variant != "reference":
        teacher = freeze_teacher(teacher, dtype=torch.bfloat16)
    return student, teacher


def make_step(variant: Variant) -> Callable[[Batch], None]:
    """Returns a function that trains the variant's student on one batch."""
    student, teacher = make_models(variant)
    optimizer = torch.optim.AdamW(
        student.parameters(),
        lr=1e-5,
        betas=(0.9, 0.98),
        eps=1e-6,
        weight_decay=0.0,
        fused=variant != "reference",
    )

    def step(batch: Batch) -> None:
        if variant == "reference":
            soft_target, mlm, cosine = reference_losses(student, teacher, batch)
            total = SOFT_TARGET * soft_target + MLM * mlm + COSINE * cosine
        else:
            positions: Literal["all", "masked"] = "all" if variant == "same" else "masked"
            total, _ = our_losses(student, teacher, batch, positions=positions)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def memory_policy(variant: Variant) -> AbstractContextManager[Any]:
    """Returns the context that the product trains in; the reference has none."""
    if variant == "reference":
        return nullcontext()
    return retain_freed_memory()


# --- measuring -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rates:
    """Attended tokens per second of wall-clock and of CPU time, one entry per round."""

    wall: list[float]
    cpu: list[float]


def measure(text: Text, rounds: int) -> dict[Variant, Rates]:
    """Runs the variants in turn; one more round at the start warms up."""
    steps = {variant: make_step(variant) for variant in VARIANTS}
    rates = {variant: Rates([], []) for variant in VARIANTS}
    for number in range(rounds + 1):
        is_warm_up = number == 0
        for variant, step in steps.items():
            batch = text.batch(number, packed=variant == "packed")
            with memory_policy(variant):
                # The first step with this policy still takes its memory from the system.
                if is_warm_up and variant != "reference":
                    step(batch)
                wall_start, cpu_start = time.perf_counter(), time.process_time()
                step(batch)
                wall = time.perf_counter() - wall_start
                cpu = time.process_time() - cpu_start
            if not is_warm_up:
                rates[variant].wall.append(batch.attended / wall)
                rates[variant].cpu.append(batch.attended / cpu)
            print(f"  {variant}: {batch.attended / wall:.0f} tokens/s", file=sys.stderr, flush=True)
    return rates


def compare_values(text: Text) -> dict[str, list[float]]:
    """The three losses of one batch without dropout: reference in float32, ours in bfloat16."""
    batch = text.batch(3, packed=False)
    student, teacher = make_models("reference")
    with torch.no_grad():
        reference = reference_losses(student.eval(), teacher, batch)
    student, teacher = make_models("same")
    _, ours = our_losses(student.eval(), teacher, batch, positions="all")
    return {
        "reference": [float(loss) for loss in reference],
        "same": [float(loss) for loss in ours],
    }


def peak_bytes(variant: Variant, text: Text, arguments: argparse.Namespace) -> int:
    """Peak resident memory of a fresh process that builds the models and takes two steps."""
    with tempfile.TemporaryDirectory() as folder:
        # The process gets batches, so the memory of reading the text is not in its peak.
        path = Path(folder) / "batches.pt"
        batches = [text.batch(number, packed=variant == "packed") for number in range(2)]
        torch.save([(b.input_ids_BL, b.attention_mask_BL, b.labels_BL) for b in batches], path)
        command = [sys.executable, __file__, "--corpus", str(arguments.corpus)]
        command += ["--threads", str(arguments.threads), "--only", variant, "--batches", str(path)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return int(json.loads(done.stdout)["peak_bytes"])


def print_own_peak(variant: Variant, path: Path) -> None:
    """Takes a step on every batch of a file and prints this process's peak memory as JSON."""
    batches = [Batch(*tensors) for tensors in torch.load(path, weights_only=True)]
    step = make_step(variant)
    with memory_policy(variant):
        for batch in batches:
            step(batch)
    # VmHWM, because getrusage's ru_maxrss starts at the memory of the parent that forked us.
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    print(json.dumps({"peak_bytes": peak_kib * 1024}))


# --- where the time goes -------------------------------------------------------------------------

_LINEAR_OPERATORS = {"aten::mm", "aten::addmm", "aten::addmm_", "mkldnn::_linear_pointwise"}
# Dimensions that only the projection onto the vocabulary has.
_VOCABULARY_SIZES = {VOCABULARY, SLICE_TOKENS, VOCABULARY % SLICE_TOKENS}


def time_shares(variant: Variant, text: Text) -> dict[str, float]:
    """Share of a step's time in the MatMuls of encoders, projection and attention, and the rest.

    The rest is the wall-clock time of the steps minus the MatMuls, so Python and all time between
    operators are in it. The teacher's attention is one operator: its softmax counts as MatMul, the
    student's as rest.
    """
    step = make_step(variant)
    batches = [text.batch(number, packed=variant == "packed") for number in range(1, 5)]
    threads = torch.get_num_threads()
    # One thread: an operator's time would otherwise include waiting for the other threads.
    torch.set_num_threads(1)
    with retain_freed_memory():
        step(batches[0])
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            for batch in batches[1:]:
                step(batch)
            total_us = (time.perf_counter() - wall_start) * 1e6
            cpu = time.process_time() - cpu_start
    torch.set_num_threads(threads)
    attended = sum(batch.attended for batch in batches[1:])
    shares = _shares_of_operators(profiler.key_averages(group_by_input_shape=True), total_us)
    return {**shares, "attended tokens/s of CPU time": attended / cpu}


def _shares_of_operators(events: Any, total_us: float) -> dict[str, float]:
    """Share of each kind of MatMul, of the rest, and of the 12 longest other operators."""
    matmuls = {"encoder": 0.0, "projection": 0.0, "attention": 0.0}
    others: dict[str, float] = {}
    for event in events:
        kind = _matmul_kind(event)
        if kind is None:
            others[event.key] = others.get(event.key, 0.0) + event.self_cpu_time_total
        else:
            matmuls[kind] += event.self_cpu_time_total
    shares = {kind: time_us / total_us for kind, time_us in matmuls.items()}
    shares["overhead"] = 1 - sum(shares.values())
    longest = sorted(others.items(), key=lambda item: -item[1])[:12]
    return shares | {f"  {name}": time_us / total_us for name, time_us in longest}


def _matmul_kind(event: Any) -> str | None:
    if event.key in _LINEAR_OPERATORS:
        dimensions = {dimension for shape in event.input_shapes for dimension in shape}
        return "projection" if dimensions & _VOCABULARY_SIZES else "encoder"
    if event.key == "aten::bmm" or "scaled_dot_product" in event.key:
        return "attention"
    return None


@dataclass(frozen=True)
class Measured:
    """All figures of the page.

    Attributes:
        rates: Of every variant.
        losses: The three losses of one batch, in float32 and in bfloat16.
        peak_bytes: Peak of a fresh process, by variant.
        shares: Where a step's time goes, for our variants.
    """

    rates: dict[Variant, Rates]
    losses: dict[str, list[float]]
    peak_bytes: dict[Variant, int]
    shares: dict[Variant, dict[str, float]]


def measure_all(arguments: argparse.Namespace, text: Text) -> Measured:
    """Measures everything."""
    return Measured(
        rates=measure(text, arguments.rounds),
        losses=compare_values(text),
        peak_bytes={variant: peak_bytes(variant, text, arguments) for variant in VARIANTS},
        shares=shares_of_ours(text),
    )


def shares_of_ours(text: Text) -> dict[Variant, dict[str, float]]:
    """Shares of a step's time, for both of our variants."""
    return {"same": time_shares("same", text), "packed": time_shares("packed", text)}


# --- page ----------------------------------------------------------------------------------------


def render(arguments: argparse.Namespace, text: Text, measured: Measured) -> str:
    """Renders the result page."""
    rates = measured.rates
    options = " ".join(
        f"--{name} {getattr(arguments, name)}"
        for name in ("rounds", "sequences", "length", "threads")
    )
    lines = [
        f"# Distillation step, BERT-base → DistilBERT, {today()}",
        "",
        f"{host_line(cores=arguments.threads)}, {system_line()}, torch {torch.__version__},"
        f" transformers {transformers.__version__}.",
        "Command: `python benchmarks/distill_throughput.py"
        f" --corpus {arguments.corpus.name} {options}`",
        f"Load at the end: {os.getloadavg()[0]:.1f}. Medians of {arguments.rounds} rounds in turn;"
        f" {arguments.sequences} sequences of at most {arguments.length} tokens per step,"
        f" {text.attended_share():.0%} of the padded positions attended.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|" + "---|" * len(COLUMNS),
        *(rate_line(variant, rates, measured.peak_bytes) for variant in VARIANTS),
        "",
        "Losses of one batch without dropout (soft-target, MLM, cosine):",
        "",
        *(f"- {name}: {_join(losses, '.5f')}" for name, losses in measured.losses.items()),
        *share_lines(measured.shares),
        "",
        "Rounds, attended tokens/s:",
        "",
        *(f"- {variant}: {_join(rates[variant].wall, '.0f')}" for variant in VARIANTS),
    ]
    return "\n".join(lines) + "\n"


def rate_line(
    variant: Variant, rates: Mapping[Variant, Rates], peaks: Mapping[Variant, int]
) -> str:
    """Row of a variant: its rates and memory, each with the ratio to the reference."""
    wall, cpu = statistics.median(rates[variant].wall), statistics.median(rates[variant].cpu)
    wall_ratio = wall / statistics.median(rates["reference"].wall)
    cpu_ratio = cpu / statistics.median(rates["reference"].cpu)
    peak, peak_ratio = peaks[variant], peaks[variant] / peaks["reference"]
    return (
        f"| {variant} | {wall:.0f} | {wall_ratio:.2f} | {cpu:.0f} | {cpu_ratio:.2f}"
        f" | {peak / 2**20:.0f} | {peak_ratio:.2f} |"
    )


def share_lines(by_variant: Mapping[Variant, Mapping[str, float]]) -> list[str]:
    """Table of `time_shares` for both of our variants."""
    same, packed = by_variant["same"], by_variant["packed"]
    lines = [
        "",
        "Where the time of a step goes (profiler, one thread, shares of wall-clock time; three"
        " steps):",
        "",
        "| | same | packed |",
        "|---|---|---|",
    ]
    for kind in dict.fromkeys([*same, *packed]):
        cells = [_share_cell(shares.get(kind, 0.0)) for shares in (same, packed)]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return lines


def _share_cell(value: float) -> str:
    """A share, or a rate, which is far above 1."""
    return f"{value:.1%}" if value <= 1 else f"{value:,.0f}"


def _join(values: list[float], form: str) -> str:
    return ", ".join(format(value, form) for value in values)


if __name__ == "__main__":
    main()
