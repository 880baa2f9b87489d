"""DPO and KTO, each in a process of its own."""

import json

import pytest

from tests.tiny_models import tiny_model
from tests.training.forked_runs import train_all
from tuner.recipe import make_recipe
from tuner.runs.store import Run, RunStore


def pairs() -> list[dict]:
    return [
        {
            "prompt": f"Where is order {n}?",
            "chosen": f"Order {n} is on its way.",
            "rejected": "I do not know.",
        }
        for n in range(40)
    ]


def labelled() -> list[dict]:
    return [
        {
            "prompt": row["prompt"],
            "completion": row["chosen"] if n % 2 else row["rejected"],
            "label": bool(n % 2),
        }
        for n, row in enumerate(pairs())
    ]


ROWS = {"dpo": pairs(), "kto": labelled()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Run]:
    """A run of each objective, trained."""
    folder = tmp_path_factory.mktemp("preferences")
    base, store = tiny_model(folder), RunStore(folder / "runs")
    runs = {}
    for objective, rows in ROWS.items():
        data = folder / f"{objective}.jsonl"
        data.write_text("\n".join(json.dumps(row) for row in rows))
        settings = {
            "base_model": str(base),
            "objective": objective,
            "dataset": {"source": str(data)},
            "max_length": 64,
            "batch_size": 4,
            "learning_rate": 5e-3,
            "max_steps": 4,
            "eval_steps": 4,
        }
        runs[objective] = store.create(make_recipe(settings))
    train_all([*runs.values()])
    return runs


@pytest.mark.parametrize("objective", ROWS)
def test_preferences_lower_their_loss_and_leave_a_proven_adapter(objective, runs):
    run = runs[objective]

    assert run.status()["state"] == "completed", run.log_path.read_text()[-3000:]
    result = run.result()
    assert result["eval_loss"] < result["base_eval_loss"]
    assert result["adapter_effect_max_logit_diff"] > 0
    assert result["adapter_reload_max_logit_diff"] < 1e-3
