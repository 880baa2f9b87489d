"""
Training speed: ours, ours without its levers, trl as its documentation shows it, LLaMA-Factory.

    python bench/speed.py                                  # 135 M, LoRA bf16, about ten minutes
    python bench/speed.py --nf4 --rounds 1 --racers plain ours "without lora_linear"
    python bench/speed.py --model starter --batch 16
    LLAMA_FACTORY_PYTHON=…/bin/python python bench/speed.py    # bench/peers.md: how to install it

A random Llama of SmolLM2-135M's shape (or the built-in model), rows made of this project's own
functions, LoRA r 16 on all linear layers, loss on answers only. Racers are processes of their own
and take turns, so that what else the machine does strikes all of them; laps.py says how tokens a
second and memory are counted. Printed beside them: seconds from the process's start to the end of
the first step, the share of the machine's bf16 matrix product peak, and the loss of the last step.
A loss that differs from the first racer's by more than 1% is an error, as is another number of
tokens: they did not do the same.
Useful arithmetic counts a frozen layer's forward and backward, 4 operations a weight and token, an
adapter's 6, and the head's 4 on trained tokens; attention's own products are left out.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch

from bench.code_rows import Rows, functions, rows_of, write_rows
from bench.laps import (
    FACTORY,
    FACTORY_FASTER,
    PLAIN,
    RACERS,
    ROOT,
    Job,
    Lap,
    memory_of_imports,
    race,
)
from bench.playground import save_random_llama
from tuner.starter import STARTER_DIR

RANK = 16
TOLERANCE = 0.01  # between two racers' losses
FACTORY_VARIABLE = "LLAMA_FACTORY_PYTHON"


def main() -> None:
    """Let the racers take turns; print medians and ratios."""
    chosen = arguments()
    print(machine(), flush=True)
    peak = matmul_peak()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = model_folder(chosen.model, folder)
        made = rows_of(chosen.rows) if chosen.rows else functions()
        rows = write_rows(made, folder / "rows.jsonl", chosen.max_length)
        job = Job(
            *(model, rows.path, chosen.batch, chosen.max_length, chosen.steps, chosen.nf4),
            factory=chosen.llama_factory,
        )
        print(sentence(chosen, rows), flush=True)
        laps = take_turns(chosen.racers, job, chosen.rounds, folder)
        imports = {racer: memory_of_imports(racer, job, folder) for racer in laps}
        show(laps, imports, useful_operations(model, rows.trained), max(peak, matmul_peak()))
    require_agreement(laps)


def arguments() -> argparse.Namespace:
    """What to race, how long, how often."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("--racers", nargs="*", choices=RACERS, help="the first is compared with")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--model", choices=["135m", "starter"], default="135m")
    parser.add_argument("--rows", type=Path, help="JSONL of prompt and completion, as messages")
    parser.add_argument("--nf4", action="store_true")
    parser.add_argument(
        "--llama-factory",
        metavar="PYTHON",
        default=os.environ.get(FACTORY_VARIABLE) or None,
        help=f"the Python of LLaMA-Factory's venv (bench/peers.md), or {FACTORY_VARIABLE}",
    )
    chosen = parser.parse_args()
    factories = [FACTORY, FACTORY_FASTER]
    if not chosen.racers:
        chosen.racers = [PLAIN, *(factories if chosen.llama_factory else []), "none", "ours"]
    if set(chosen.racers) & set(factories) and not chosen.llama_factory:
        parser.error(f"{FACTORY} has a venv of its own: name its Python with --llama-factory.")
    return chosen


def model_folder(name: str, folder: Path) -> Path:
    """The built-in model, or a random one that is made here."""
    if name == "starter":
        return STARTER_DIR
    made = folder / "llama-135m"
    save_random_llama(made)
    return made


def take_turns(racers: list[str], job: Job, rounds: int, folder: Path) -> dict[str, list[Lap]]:
    """All racers' laps, a round after the other."""
    laps: dict[str, list[Lap]] = {racer: [] for racer in racers}
    for number in range(rounds):
        for racer in racers:
            own = folder / f"{number} {racer}"
            own.mkdir()
            laps[racer].append(race(racer, job, own))
            print(f"  {racer}: {laps[racer][-1]}", flush=True)
    return laps


def show(
    laps: dict[str, list[Lap]], imports: dict[str, int], operations: float, peak: float
) -> None:
    """Medians of all rounds, and ratios within each.

    Args:
        imports: Bytes of a process that only imports what a racer does.
        operations: Useful ones a token.
        peak: Operations a second in matrix products, the better of before and after.
    """
    print(f"\nbf16 matrix products: {peak / 1e9:.0f} GFLOP/s; load {os.getloadavg()[0]:.1f}")
    print("| racer | tokens/s | to the first | memory | beyond imports | to the first |", end="")
    print(" first step | of peak | last loss |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    base = next(iter(laps.values()))
    for racer, found in laps.items():
        speed, memory, first, loss = (
            statistics.median(getattr(lap, name) for lap in found)
            for name in ("speed", "memory", "first", "loss")
        )
        faster = statistics.median(a.speed / b.speed for a, b in zip(found, base, strict=True))
        smaller = statistics.median(a.memory / b.memory for a, b in zip(found, base, strict=True))
        print(
            f"| {racer} | {speed:.0f} | {faster:.2f}x | {memory / 1e9:.2f} GB | "
            f"{(memory - imports[racer]) / 1e9:.2f} GB | {smaller:.2f}x | {first:.1f} s | "
            f"{speed * operations / peak:.0%} | {loss:.4f} |"
        )


def require_agreement(laps: dict[str, list[Lap]]) -> None:
    """All racers trained on the same tokens, and learned the same.

    Raises:
        SystemExit: They did not.
    """
    name, (base, *_) = next(iter(laps.items()))
    for racer, (lap, *_) in laps.items():
        if lap.tokens != base.tokens:
            raise SystemExit(f"{racer} trained on {lap.tokens} tokens, {name} on {base.tokens}.")
        if abs(lap.loss - base.loss) > TOLERANCE * base.loss:
            raise SystemExit(f"The last loss of {racer} is {lap.loss}, that of {name} {base.loss}.")


def useful_operations(model: Path, trained: float) -> float:
    """Operations a token that LoRA training cannot do without.

    Args:
        trained: Share of the tokens on which there is a loss.
    """
    shape = json.loads((model / "config.json").read_text())
    width, layers, inner = (
        shape[key] for key in ("hidden_size", "num_hidden_layers", "intermediate_size")
    )
    keys = width * shape["num_key_value_heads"] // shape["num_attention_heads"]
    linear = layers * (2 * width * width + 2 * width * keys + 3 * width * inner)
    adapter = RANK * layers * (4 * width + 2 * (width + keys) + 3 * (width + inner))
    head = width * shape["vocab_size"]
    return float(4 * linear + 6 * adapter + 4 * head * trained)


def attention_operations(model: Path, length: float) -> float:
    """Operations a token of attention's products, in rows of this many tokens.

    Two products with what stands before, half of the row on average, forward and twice backward.
    """
    shape = json.loads((model / "config.json").read_text())
    return float(6 * length * shape["hidden_size"] * shape["num_hidden_layers"])


def matmul_peak() -> float:
    """Operations a second in products of 2,048 x 2,048 bf16 matrices."""
    a = torch.randn(2048, 2048).to(torch.bfloat16)
    taken = []
    for _ in range(20):
        began = time.perf_counter()
        a @ a
        taken.append(time.perf_counter() - began)
    return float(2 * 2048**3 / min(taken))


def machine() -> str:
    """Processor, cores, torch and commit: what figures are worth nothing without."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    bf16 = "AVX512-BF16" if torch.cpu._is_avx512_bf16_supported() else "no AVX512-BF16"
    return (
        f"{processor} ({bf16}), {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, commit {commit()}, load {os.getloadavg()[0]:.1f}"
    )


def commit() -> str:
    """The commit that is measured, and whether files differ from it."""
    asked = ["git", "describe", "--always", "--dirty=, changed", "--exclude", "*"]
    said = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    return said.stdout.strip() or "unknown"


def sentence(chosen: argparse.Namespace, rows: Rows) -> str:
    """What is raced."""
    return (
        f"{chosen.model}, {'QLoRA NF4' if chosen.nf4 else 'LoRA bf16'}, batch {chosen.batch}, "
        f"max_length {chosen.max_length}, {chosen.steps} steps, {chosen.rounds} rounds; "
        f"{rows.count:,} rows of {rows.mean:.0f} tokens, {rows.trained:.0%} of which are answers"
    )


if __name__ == "__main__":
    main()
