"""
Training speed: ours, ours without its levers, and trl as its documentation shows it, in a race.

    python bench/speed.py                                  # 135 M, LoRA bf16, about ten minutes
    python bench/speed.py --nf4 --rounds 1 --racers all ours plain
    python bench/speed.py --model starter --batch 16

A random Llama of SmolLM2-135M's shape (or the built-in model), rows made of this project's own
functions, LoRA r 16 on all linear layers, loss on answers only. Racers are processes of their own
and take turns, so that what else the machine does strikes all of them. Printed: non-padding tokens
a second over the steps after the first two, peak memory of the whole process, seconds from its
start to the end of the first step, share of the machine's bf16 matrix product peak, and the loss
of the last step, which must agree.
Useful arithmetic counts a frozen layer's forward and backward, 4 operations a weight and token, an
adapter's 6, and the head's 4 on trained tokens; attention's own products are left out.
"""

import argparse
import ast
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch

from bench.playground import SMOLLM2_135M, save_random_llama
from tuner.recipe import LEVERS, make_recipe
from tuner.runs.store import RunStore
from tuner.starter import STARTER_DIR

WARM_UP = 2  # steps
TRAINED_SHARE = 0.5  # of the tokens of these rows, about
HERE = Path(__file__).resolve().parent
# Name → the recipe's `levers`; trl's own script has none.
RACERS: dict[str, Any] = {
    "plain": None,
    "none": "none",
    "ours": "auto",
    **{f"only {name}": [name] for name in LEVERS},
    **{f"without {name}": [each for each in LEVERS if each != name] for name in LEVERS},
}


@dataclass
class Lap:
    """One process's run.

    Attributes:
        speed: Non-padding tokens a second after the first steps.
        memory: Bytes at the peak, imports included.
        first: Seconds from start to the end of the first step.
    """

    speed: float
    memory: float
    first: float
    loss: float


def main() -> None:
    """Let the racers take turns; print medians and ratios."""
    chosen = arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = STARTER_DIR if chosen.model == "starter" else folder / "llama-135m"
        if model != STARTER_DIR:
            save_random_llama(model)
        rows = folder / "rows.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in functions()))
        laps: dict[str, list[Lap]] = {racer: [] for racer in chosen.racers}
        for _ in range(chosen.rounds):
            for racer in chosen.racers:
                laps[racer].append(race(racer, model, rows, folder, chosen))
                print(f"  {racer}: {laps[racer][-1]}", flush=True)
        show(laps, chosen)


def arguments() -> argparse.Namespace:
    """What to race, how long, how often."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("--racers", nargs="*", default=["plain", "none", "ours"], choices=RACERS)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--model", choices=["135m", "starter"], default="135m")
    parser.add_argument("--nf4", action="store_true")
    return parser.parse_args()


def race(racer: str, model: Path, rows: Path, folder: Path, chosen: Any) -> Lap:
    """One process from start to end."""
    if racer == "plain":
        return plain_lap(model, rows, folder / "plain.json", chosen)
    return our_lap(RACERS[racer], model, rows, RunStore(folder / "runs"), chosen)


def plain_lap(model: Path, rows: Path, out: Path, chosen: Any) -> Lap:
    """trl's own script."""
    command = [HERE / "plain_trl.py", model, rows, out, "--steps", chosen.steps]
    command += ["--batch", chosen.batch, "--max-length", chosen.max_length]
    began, memory = run([*command, "--nf4"] if chosen.nf4 else command)
    steps = json.loads(out.read_text())
    tokens = steps[-1]["tokens_so_far"] - steps[WARM_UP - 1]["tokens_so_far"]
    seconds = sum(step["seconds"] for step in steps[WARM_UP:])
    return Lap(tokens / seconds, memory, steps[0]["ended"] - began, steps[-1]["loss"])


def our_lap(levers: Any, model: Path, rows: Path, store: RunStore, chosen: Any) -> Lap:
    """A run of ours, its proof at the end included in the memory."""
    recipe = {
        "base_model": str(model),
        "quantization": "nf4" if chosen.nf4 else "none",
        "dtype": "bfloat16",
        "dataset": {"source": str(rows), "eval_fraction": 0},
        "max_length": chosen.max_length,
        "batch_size": chosen.batch,
        "micro_batch_size": chosen.batch,
        "max_steps": chosen.steps,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0,
        "lora": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
        "levers": levers,
    }
    made = store.create(make_recipe(recipe), "race")
    began, memory = run(["-m", "tuner.training", made.dir])
    steps = [event for event in made.events()[0] if event["kind"] == "metric"]
    speed = statistics.median(step["tokens_per_second"] for step in steps[WARM_UP:])
    return Lap(speed, memory, steps[0]["time"] - began, steps[-1]["loss"])


def run(words: list[Any]) -> tuple[float, float]:
    """Run Python to its end; returns when it began, and its peak memory in bytes."""
    began = time.time()
    process = subprocess.Popen(
        [sys.executable, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(said.decode()[-3000:])
    return began, used.ru_maxrss * 1024.0


def show(laps: dict[str, list[Lap]], chosen: Any) -> None:
    """Medians of all rounds, and ratios within each."""
    peak = matmul_peak()
    print(f"\nbf16 matrix products: {peak / 1e9:.0f} GFLOP/s; load {os.getloadavg()[0]:.1f}")
    print("racer | tokens/s | to the first | memory | first step | of peak | last loss")
    for racer, found in laps.items():
        speed, memory, first, loss = (
            statistics.median(getattr(lap, name) for lap in found)
            for name in ("speed", "memory", "first", "loss")
        )
        slowest = next(iter(laps.values()))
        ratios = [lap.speed / base.speed for lap, base in zip(found, slowest, strict=True)]
        print(
            f"{racer} | {speed:.0f} | {statistics.median(ratios):.2f}x | {memory / 1e9:.2f} GB | "
            f"{first:.1f} s | {share(speed, peak, chosen):.0%} | {loss:.4f}"
        )


def share(speed: float, peak: float, chosen: Any) -> float:
    """Useful arithmetic over what the machine can do; of the 135 M model."""
    shape = SMOLLM2_135M
    width, layers, inner = (
        shape[key] for key in ("hidden_size", "num_hidden_layers", "intermediate_size")
    )
    keys = width * shape["num_key_value_heads"] // shape["num_attention_heads"]
    linear = layers * (2 * width * width + 2 * width * keys + 3 * width * inner)
    adapter = 16 * layers * (4 * width + 2 * (width + keys) + 3 * (width + inner))
    head = width * shape["vocab_size"]
    return speed * (4 * linear + 6 * adapter + 4 * head * TRAINED_SHARE) / peak


def matmul_peak() -> float:
    """Operations a second in products of 2,048 x 2,048 bf16 matrices."""
    a = torch.randn(2048, 2048).to(torch.bfloat16)
    taken = []
    for _ in range(20):
        began = time.perf_counter()
        a @ a
        taken.append(time.perf_counter() - began)
    return float(2 * 2048**3 / min(taken))


def functions() -> Iterator[dict[str, Any]]:
    """This project's documented functions: asked for by their module's words and their own."""
    for path in sorted((HERE.parent / "tuner").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        module = ast.parse(source)
        about = ast.get_docstring(module) or ""
        for node in ast.walk(module):
            told = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
            if told:
                text = ast.get_source_segment(source, node) or ""
                yield {
                    "prompt": [{"role": "user", "content": f"{about}\n\n{told.splitlines()[0]}"}],
                    "completion": [{"role": "assistant", "content": text}],
                }


if __name__ == "__main__":
    main()
