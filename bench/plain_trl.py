"""
A LoRA fine-tune as trl's documentation shows it: what bench/speed.py races against.

    python bench/plain_trl.py MODEL ROWS.jsonl OUT.json --steps 8 --batch 4 --max-length 512

Nothing is tuned here on purpose: SFTTrainer with its defaults, on prompt and completion. (One of
them is gradient checkpointing.)
"""

import argparse
import tempfile
from pathlib import Path

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer

from bench.watch import Watch


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
    watch.write(chosen.out)


if __name__ == "__main__":
    main()
