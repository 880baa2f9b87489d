"""Completed runs with everything that a card tells, written by hand: nothing is trained."""

import json
from pathlib import Path
from typing import Any

import numpy
from safetensors.numpy import save_file

from tests.tiny_models import CHAT_TEMPLATE, END
from tests.ui.telling import metric
from tuner.recipe import make_recipe
from tuner.runs.events import EventWriter
from tuner.runs.store import Run, RunStore

FINGERPRINT = "ab" * 32
PROMPTS = ("Where is my order?", "Can I send it back?", "Do you ship abroad?", "Who are you?")
RESULT = {
    "steps": 4,
    "kept_step": 4,
    "base_eval_loss": 2.5,
    "eval_loss": 1.25,
    "train_rows": 90,
    "eval_rows": 10,
    "tokens_per_second": 812.4,
    "estimated_memory_bytes": 5_900_000_000,
    "peak_memory_bytes": 6_100_000_000,
    "estimated_seconds": 100.0,
    "seconds": 112.0,
    "device": "cuda:0",
    "hardware": {"name": "NVIDIA L4", "count": 1, "cores": 4, "memory_bytes": 24_000_000_000},
    "trainable_parameters": 2_000_000,
    "total_parameters": 500_000_000,
    "base_weights_unchanged": True,
    "versions": {"peft": "0.21.2", "torch": "2.13.0"},
}
REPORT = {"kind": "sft", "train_rows": 90, "eval_rows": 10, "fingerprint": FINGERPRINT}


def told_run(root: Path, name: str = "support bot", **settings: Any) -> Run:
    """A completed run; settings are the recipe's."""
    dataset = {"source": "sums.csv", "fingerprint": FINGERPRINT} | settings.pop("dataset", {})
    values = {"base_model": "starter", "dataset": dataset, "sample_prompts": list(PROMPTS)}
    run = RunStore(root).create(make_recipe(values | settings), name)
    run.data_dir.mkdir(exist_ok=True)
    tell(run, REPORT)
    with EventWriter(run.events_path) as events:
        events.write("eval", step=0, eval_loss=2.5)
        say(events, 0, "The base")
        for step in range(1, 5):
            metric(events, step, max_steps=4)
        events.write("eval", step=4, eval_loss=1.25)
        say(events, 4, "The tuned model")
    keep_adapter(run)
    run.write_result(dict(RESULT))
    run.update_status(state="completed", step=4, max_steps=4)
    return run


def tell(run: Run, report: dict[str, Any]) -> None:
    """Replace the data's report."""
    (run.data_dir / "report.json").write_text(json.dumps(report))


def say(events: EventWriter, step: int, who: str, prompts: tuple[str, ...] = PROMPTS) -> None:
    """Record answers to the prompts."""
    for index, prompt in enumerate(prompts):
        text = f"{who} answers {index} at {step}."
        events.write("sample", step=step, index=index, prompt=prompt, text=text)


def keep_adapter(run: Run, template: str = CHAT_TEMPLATE, **config: Any) -> None:
    """An adapter's folder as training leaves it, with weights that fit nothing."""
    run.adapter_dir.mkdir(exist_ok=True)
    settings = {"peft_type": "LORA", "r": 16, "base_model_name_or_path": str(run.dir), **config}
    (run.adapter_dir / "adapter_config.json").write_text(json.dumps(settings))
    weights = {"base_model.model.q_proj.lora_A.weight": numpy.ones((4, 8), dtype="float32")}
    save_file(weights, run.adapter_dir / "adapter_model.safetensors", {"format": "pt"})
    tokens = {"eos_token": END, "pad_token": "<|pad|>"}
    (run.adapter_dir / "tokenizer_config.json").write_text(json.dumps(tokens))
    (run.adapter_dir / "chat_template.jinja").write_text(template)
