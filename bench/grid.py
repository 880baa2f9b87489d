"""
Ours against plain trl over lengths, batches and two models: ahead everywhere, and by how much?

    python bench/grid.py                                     # about 35 minutes on 2 cores
    python bench/grid.py --models starter --lengths 128 mixed --batches 1 16

Rows are pieces of this project's code of just below 128, 512 or 2,048 tokens, or of all three in
turn; half of each is the answer. A cell is one process each, LoRA bf16, laps.py says what is
counted: after one step, so many that about as many tokens went through as CELL has for its model.
Cells whose batch would be more than ROOM tokens with its padding are left out: in a machine's
memory they are smaller micro-batches, and these have a cell. Where ours is behind, or learned
something else, the exit code is 1.
The second table is what a token costs in ours, beside what its arithmetic grows by with attention.
"""

import argparse
import itertools
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from bench.code_rows import Row, Rows, pieces, write_rows
from bench.laps import PLAIN, Job, Lap, race
from bench.speed import (
    attention_operations,
    machine,
    model_folder,
    require_agreement,
    useful_operations,
)

LENGTHS = {"128": [128], "512": [512], "2048": [2048], "mixed": [128, 512, 2048]}
BATCHES = [1, 4, 16, 32]
MODELS = ["starter", "135m"]
CELL = {"starter": 16_384, "135m": 4_096}  # tokens to measure on
ROOM = {"starter": 65_536, "135m": 8_192}  # tokens of a batch, padding included
MOST_STEPS = 8
ROWS = 96


@dataclass(frozen=True)
class Cell:
    """One place of the grid, raced."""

    model: str
    length: str
    batch: int
    plain: Lap
    ours: Lap

    @property
    def ratio(self) -> float:
        """Speed of ours over plain's."""
        return self.ours.speed / self.plain.speed


def main() -> None:
    """Race every cell, print a table, tell whether ours was ahead in all."""
    chosen = arguments()
    print(machine(), flush=True)
    print("| model | length | batch | plain tokens/s | ours | ratio | plain memory | ours |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    cells = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {model: model_folder(model, folder) for model in chosen.models}
        rows = {length: rows_of(length, folder) for length in chosen.lengths}
        for model, length, batch in itertools.product(models, rows, chosen.batches):
            if batch * max(LENGTHS[length]) <= ROOM[model]:
                cells.append(cell(model, models[model], length, rows[length], batch, folder))
                print(line(cells[-1]), flush=True)
        show_costs(cells, models, rows)
    behind = [each for each in cells if each.ratio <= 1]
    print(f"\nAhead in {len(cells) - len(behind)} of {len(cells)} cells.")
    raise SystemExit(1 if behind else 0)


def arguments() -> argparse.Namespace:
    """Which part of the grid."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("--models", nargs="*", choices=MODELS, default=MODELS)
    parser.add_argument("--lengths", nargs="*", choices=LENGTHS, default=list(LENGTHS))
    parser.add_argument("--batches", nargs="*", type=int, default=BATCHES)
    return parser.parse_args()


def rows_of(length: str, folder: Path) -> Rows:
    """As many rows of each length that is in it."""
    kinds = [pieces(each, ROWS // len(LENGTHS[length])) for each in LENGTHS[length]]
    mixed: list[Row] = [row for group in zip(*kinds, strict=True) for row in group]
    return write_rows(mixed, folder / f"{length}.jsonl", max(LENGTHS[length]))


def cell(model: str, base: Path, length: str, rows: Rows, batch: int, folder: Path) -> Cell:
    """Both racers, one after the other.

    Raises:
        SystemExit: They did not train on the same, or did not learn the same.
    """
    counted = max(1, min(MOST_STEPS, round(CELL[model] / (batch * rows.mean))))
    job = Job(base, rows.path, batch, max(LENGTHS[length]), steps=1 + counted, warm_up=1)
    laps = {}
    for racer in (PLAIN, "ours"):
        own = folder / f"{model} {length} {batch} {racer}"
        own.mkdir()
        laps[racer] = race(racer, job, own)
    require_agreement({racer: [lap] for racer, lap in laps.items()})
    return Cell(model, length, batch, laps[PLAIN], laps["ours"])


def line(cell: Cell) -> str:
    """One row of the table."""
    plain, ours = cell.plain, cell.ours
    return (
        f"| {cell.model} | {cell.length} | {cell.batch} | {plain.speed:.0f} | {ours.speed:.0f} | "
        f"{cell.ratio:.2f}x | {plain.memory / 1e9:.2f} GB | {ours.memory / 1e9:.2f} GB |"
    )


def show_costs(cells: list[Cell], models: dict[str, Path], rows: dict[str, Rows]) -> None:
    """Milliseconds a token in ours, at each length's fastest batch, beside the arithmetic."""
    print("\n| model | length | ms a token | to the first | arithmetic to the first |")
    print("|---|--:|--:|--:|--:|")
    for model, base in models.items():
        fastest = {
            length: max(each.ours.speed for each in cells if own(each, model, length))
            for length in rows
            if any(own(each, model, length) for each in cells)
        }
        work = {length: operations(base, rows[length], length) for length in fastest}
        for length, speed in fastest.items():
            first = next(iter(fastest))
            print(
                f"| {model} | {length} | {1000 / speed:.2f} | {fastest[first] / speed:.2f}x | "
                f"{work[length] / work[first]:.2f}x |"
            )


def own(cell: Cell, model: str, length: str) -> bool:
    """Whether a cell is one of this model and length."""
    return (cell.model, cell.length) == (model, length)


def operations(base: Path, rows: Rows, length: str) -> float:
    """Useful operations a token, attention's included."""
    kinds = LENGTHS[length]
    # A token of a long row meets more of them, and long rows have more tokens.
    seen = sum(each * each for each in kinds) / sum(kinds) * rows.mean * len(kinds) / sum(kinds)
    return useful_operations(base, rows.trained) + attention_operations(base, seen)


if __name__ == "__main__":
    main()
