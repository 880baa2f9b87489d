"""DPO and KTO on real processes."""

import json

import pytest

from tests.tiny_models import tiny_model
from tuner.recipe import make_recipe
from tuner.runs import launch
from tuner.runs.store import RunStore


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


@pytest.mark.parametrize(("objective", "rows"), [("dpo", pairs()), ("kto", labelled())])
def test_preferences_lower_their_loss_and_leave_a_proven_adapter(objective, rows, tmp_path):
    data = tmp_path / "pairs.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    recipe = make_recipe(
        {
            "base_model": str(tiny_model(tmp_path)),
            "objective": objective,
            "dataset": {"source": str(data)},
            "max_length": 64,
            "batch_size": 4,
            "learning_rate": 5e-3,
            "max_steps": 4,
            "eval_steps": 4,
        }
    )
    run = RunStore(tmp_path / "runs").create(recipe)

    launch.start(run)
    launch.wait(run)

    assert run.status()["state"] == "completed", run.log_path.read_text()[-3000:]
    result = run.result()
    assert result["eval_loss"] < result["base_eval_loss"]
    assert result["adapter_effect_max_logit_diff"] > 0
    assert result["adapter_reload_max_logit_diff"] < 1e-3
