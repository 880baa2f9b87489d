"""Run directories that kept something, without training."""

import json
from pathlib import Path
from typing import Any

from tuner.recipe import make_recipe
from tuner.runs.store import Run, RunStore


def adapter_files(folder: Path, **settings: Any) -> Path:
    """A folder that looks like an adapter; its weights are none."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": "org/model", **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


def kept_run(store: RunStore, name: str, steps: tuple[int, ...] = (), **settings: Any) -> Run:
    """A completed run with an adapter and checkpoints."""
    run = store.create(make_recipe({"base_model": "starter", **settings}), name)
    adapter_files(run.adapter_dir)
    for step in steps:
        adapter_files(run.checkpoints_dir / f"step-{step}")
    run.update_status(state="completed")
    return run
