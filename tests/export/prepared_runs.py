"""Runs that are prepared as a training process prepares them, but not trained: made in a moment."""

import json
from pathlib import Path
from typing import Any

from tuner.data.prepare import prepare_dataset
from tuner.export.rows import read_rows, write_rows
from tuner.export.script_text import RowFacts
from tuner.recipe import make_recipe
from tuner.runs.store import Run, RunStore

DECIDED = {
    "max_length": 64,
    "batch_size": 4,
    "micro_batch_size": 2,
    "gradient_checkpointing": False,
    "learning_rate": 5e-3,
    "max_steps": 2,
    "eval_steps": 1,
    "save_steps": 1,
    "dtype": "float32",
    "optim": "adamw_torch_fused",
    "sample_prompts": ["Where is order 74?"],
    "sample_max_new_tokens": 8,
}
ANSWERED = [
    {"question": f"Where is order {n * 37}?", "answer": f"Order {n * 37} left on day {n}."}
    for n in range(24)
]
PAIRS = [
    {"prompt": f"Where is order {n}?", "chosen": f"Order {n} is near.", "rejected": "No idea."}
    for n in range(24)
]
LABELLED = [
    {"prompt": pair["prompt"], "completion": pair["chosen"], "label": bool(n % 2)}
    for n, pair in enumerate(PAIRS)
]
TEXTS = [{"text": f"Order {n} left on day {3 * n}. " * (n % 4 + 1)} for n in range(24)]
ROWS = {"sft": ANSWERED, "dpo": PAIRS, "kto": LABELLED}


def prepared_run(
    root: Path,
    base: Path | str,
    rows: list[Any] | None = None,
    name: str = "orders",
    **settings: Any,
) -> Run:
    """A run under `root` with its data written and every setting decided.

    Args:
        rows: Of the objective; by default some that fit it.
        settings: Of the recipe, over DECIDED.
    """
    objective = settings.get("objective", "sft")
    source = root / "rows.jsonl"
    source.write_text("\n".join(json.dumps(row) for row in rows or ROWS[objective]))
    dataset = {"source": str(source)} | settings.pop("dataset", {})
    values = DECIDED | {"base_model": str(base), "dataset": dataset} | settings
    recipe = make_recipe(values)
    run = RunStore(root / "runs").create(recipe, name)
    prepare_dataset(recipe.dataset, objective, run.data_dir, max_length=recipe.max_length)
    return run


def rows_of(run: Run) -> tuple[RowFacts, dict[str, bytes]]:
    """As export/rows.py's exported_rows, without the seconds of a process of its own."""
    out = run.dir / "looked-at"
    out.mkdir(exist_ok=True)
    write_rows(run, out)
    return read_rows(out)
