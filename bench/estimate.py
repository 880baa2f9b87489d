"""
The memory estimate beside the measured peak, over real runs of random-weight models:

    python bench/estimate.py                # every case, about 8 minutes on 2 cores
    python bench/estimate.py nf4 dora       # cases whose name holds one of these words

Each case is a run of its own process through runs/launch.py, two steps long, with rows that fill
max_length. Peak and estimate are what result.json says of that run. CPU only.
"""

import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.tiny_models import tiny_model
from tuner.recipe import make_recipe
from tuner.runs import launch
from tuner.runs.store import RunStore

# A Llama of 88 M parameters; its vocabulary is a real one's, so that logits weigh what they do.
MEDIUM = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "vocab_size": 32768,
}
SMALL = MEDIUM | {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6}
SMALL |= {"num_attention_heads": 8, "vocab_size": 8192}
# Heads of its own for keys are not GPT-NeoX's; its config would hold the number all the same.
NEOX = {name: size for name, size in MEDIUM.items() if name != "num_key_value_heads"}


@dataclass(frozen=True)
class Case:
    """One run: a model and what its recipe sets."""

    name: str
    shape: dict[str, Any] = field(default_factory=lambda: MEDIUM)
    family: str = "llama"
    stored: str = "float32"
    settings: dict[str, Any] = field(default_factory=dict)


CASES = (
    Case("lora float32", settings={"dtype": "float32"}),
    Case("lora float32, small", SMALL, settings={"dtype": "float32"}),
    Case("lora float32, batch 4", settings={"dtype": "float32", "micro_batch_size": 4}),
    Case("lora float32, long", settings={"dtype": "float32", "max_length": 1024}),
    Case(
        "lora float32, checkpointing",
        settings={"dtype": "float32", "micro_batch_size": 4, "gradient_checkpointing": True},
    ),
    Case("lora bfloat16", settings={"dtype": "bfloat16", "micro_batch_size": 4}),
    Case("lora bfloat16 stored", stored="bfloat16", settings={"dtype": "bfloat16"}),
    Case("lora float32, stored bfloat16", stored="bfloat16", settings={"dtype": "float32"}),
    Case("dora", settings={"adapter": "dora", "dtype": "float32"}),
    Case("lora r 64", settings={"lora": {"r": 64}, "dtype": "float32"}),
    Case("lora dropout", settings={"lora": {"lora_dropout": 0.1}, "dtype": "float32"}),
    Case("nf4", settings={"quantization": "nf4", "dtype": "bfloat16"}),
    Case("nf4, batch 4", settings={"quantization": "nf4", "micro_batch_size": 4}),
    Case("nf4 float32", settings={"quantization": "nf4", "dtype": "float32"}),
    Case("int8", settings={"quantization": "int8", "dtype": "bfloat16"}),
    Case("int8 float32", settings={"quantization": "int8", "dtype": "float32"}),
    Case("full", settings={"adapter": "none"}),
    Case("full adafactor", settings={"adapter": "none", "optim": "adafactor"}),
    Case("full 8bit", settings={"adapter": "none", "optim": "adamw_8bit"}),
    Case("full, small, batch 4", SMALL, settings={"adapter": "none", "micro_batch_size": 4}),
    Case("packing", settings={"packing": True, "dtype": "float32"}),
    Case("gemma2", MEDIUM | {"head_dim": 64}, "gemma2", settings={"dtype": "float32"}),
    Case("phi3", family="phi3", settings={"dtype": "float32"}),
    Case("gpt_neox", NEOX, "gpt_neox", settings={"dtype": "float32"}),
    Case("starcoder2 bfloat16", family="starcoder2", settings={"dtype": "bfloat16"}),
    Case("qwen3 bfloat16", MEDIUM | {"head_dim": 64}, "qwen3", settings={"dtype": "bfloat16"}),
)


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """Run one case; returns its result.json."""
    import torch

    dtype = getattr(torch, case.stored)
    model = tiny_model(folder, case.family, context=2048, dtype=dtype, **case.shape)
    data = folder / "rows.jsonl"
    rows = [{"prompt": f"{n}", "completion": f"{n} is a number. " * 200} for n in range(24)]
    data.write_text("\n".join(map(json.dumps, rows)))
    recipe = make_recipe(
        {
            "base_model": str(model),
            "dataset": {"source": str(data), "eval_fraction": 0},
            "max_length": 256,
            "batch_size": 4,
            "micro_batch_size": 2,
            "gradient_checkpointing": False,
            "max_steps": 2,
            **case.settings,
        }
    )
    run = RunStore(folder / "runs").create(recipe)
    launch.start(run)
    status = launch.wait(run)
    if status["state"] != "completed":
        raise SystemExit(f"{case.name}: {status['reason']}\n{run.log_path.read_text()[-2000:]}")
    return run.result() or {}


def main(words: list[str]) -> None:
    """Print a Markdown table, one case a row."""
    print("| case | measured MB | estimated MB | ratio | seconds | estimated s |")
    print("|---|--:|--:|--:|--:|--:|")
    for case in CASES:
        if words and not any(word in case.name for word in words):
            continue
        with tempfile.TemporaryDirectory() as folder:
            result = measure(case, Path(folder))
        peak, estimated = result["peak_memory_bytes"], result["estimated_memory_bytes"]
        figures = f"{peak / 1e6:.0f} | {estimated / 1e6:.0f} | {estimated / peak:.2f}"
        seconds = f"{result['seconds']:.0f} | {result['estimated_seconds']:.0f}"
        print(f"| {case.name} | {figures} | {seconds} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
