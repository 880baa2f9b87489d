"""
The same fine-tune by LLaMA-Factory, in a venv of its own (peers.md): a racer of speed.py.

    PYTHON_OF_THAT_VENV bench/llama_factory.py MODEL ROWS.jsonl OUT.json \\
        --steps 8 --batch 4 --max-length 512 [--nf4] [--no-checkpointing]

Writes the settings and the data set as its user would and hands them to what `llamafactory-cli
train settings.yaml` calls on one device, with one callback more, which writes down every step. Its
own log has no seconds finer than one and no tokens of a step.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from llamafactory.train.tuner import run_exp

from bench.watch import Watch

# Messages as they are here, in its names for data sets.
DATASET_INFO = {
    "rows": {
        "file_name": "rows.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
}


def main() -> None:
    """Train, and write what was seen."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("model")
    arguments.add_argument("rows", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--steps", type=int, required=True)
    arguments.add_argument("--batch", type=int, required=True)
    arguments.add_argument("--max-length", type=int, required=True)
    arguments.add_argument("--nf4", action="store_true")
    arguments.add_argument("--no-checkpointing", action="store_true")
    chosen = arguments.parse_args()
    watch = Watch()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(chosen.rows, folder)
        settings = folder / "settings.yaml"
        settings.write_text(yaml.safe_dump(settings_of(chosen, folder)))
        run_exp(yaml.safe_load(settings.read_text()), callbacks=[watch])
    watch.write(chosen.out)


def write_dataset(rows: Path, folder: Path) -> None:
    """Prompt and completion as one conversation each, and where they are."""
    found = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    messages = [{"messages": row["prompt"] + row["completion"]} for row in found]
    (folder / "rows.json").write_text(json.dumps(messages))
    (folder / "dataset_info.json").write_text(json.dumps(DATASET_INFO))


def settings_of(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What is equal for all racers; everything else is LLaMA-Factory's default."""
    settings = {
        "model_name_or_path": chosen.model,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": 16,
        "lora_alpha": 32,
        "lora_target": "all",
        "dataset": "rows",
        "dataset_dir": str(folder),
        "cutoff_len": chosen.max_length,
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": chosen.batch,
        "max_steps": chosen.steps,
        "learning_rate": 2e-4,
        "bf16": True,
        "use_cpu": not torch.cuda.is_available(),
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "include_num_input_tokens_seen": "non_padding",
    }
    if chosen.nf4:
        settings |= {"quantization_bit": 4, "quantization_method": "bnb"}
    if chosen.no_checkpointing:
        settings["disable_gradient_checkpointing"] = True
    return settings


if __name__ == "__main__":
    main()
