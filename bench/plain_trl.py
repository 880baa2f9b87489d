"""
A LoRA fine-tune as trl's documentation shows it: what bench/speed.py races against.

    python bench/plain_trl.py MODEL ROWS.jsonl OUT.json --steps 8 --batch 4 --max-length 512

Nothing is tuned here on purpose: SFTTrainer with its defaults, on prompt and completion.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Watch(TrainerCallback):
    """Seconds, tokens and loss of every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.steps.append({"seconds": time.perf_counter() - self.began, "ended": time.time()})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.steps[-1] |= {"loss": logs["loss"], "tokens_so_far": logs["num_tokens"]}


def main() -> None:
    """Train, and write what was seen."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("model")
    arguments.add_argument("rows")
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--steps", type=int, required=True)
    arguments.add_argument("--batch", type=int, required=True)
    arguments.add_argument("--max-length", type=int, required=True)
    arguments.add_argument("--nf4", action="store_true")
    chosen = arguments.parse_args()
    watch = Watch()
    packed = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        chosen.model, dtype=torch.bfloat16, quantization_config=packed if chosen.nf4 else None
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=folder,
                max_steps=chosen.steps,
                per_device_train_batch_size=chosen.batch,
                max_length=chosen.max_length,
                learning_rate=2e-4,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                use_cpu=not torch.cuda.is_available(),
            ),
            train_dataset=load_dataset("json", data_files=chosen.rows, split="train"),
            peft_config=LoraConfig(
                r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
            callbacks=[watch],
        )
        trainer.train()
    chosen.out.write_text(json.dumps(watch.steps))


if __name__ == "__main__":
    main()
