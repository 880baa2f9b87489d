"""
After training: is what was saved what was trained, does it do anything, is the base untouched?

The adapter is loaded with plain peft onto a freshly loaded base, and its logits on held-out rows
are compared with the trained model's. The complaint "the adapter has no effect" is settled here.
The trained model is let go before the fresh one is loaded, so one base's room is enough.
"""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

ROWS = 4
TOKENS = 64  # of each row: all logits of all rows are held at once, beside a loaded model

Logits = list[torch.Tensor]  # one (1, T, vocabulary) float32 tensor per row, on the CPU


@dataclass(frozen=True)
class TrainedLogits:
    """What the trained model said: with its adapter, and (adapters only) with it switched off."""

    tuned: Logits
    base: Logits | None


def probe_rows(tokens: Any) -> list[list[int]]:
    """A few rows of token ids to compare on, of any kind of data set."""
    names = ("input_ids",) if "input_ids" in tokens.column_names else _pair_names(tokens)
    rows = tokens.select(range(min(ROWS, len(tokens))))
    return [list(chain(*(row[name] for name in names)))[:TOKENS] for row in rows]


def trained_logits(model: Any, rows: list[list[int]]) -> TrainedLogits:
    """Ask the model as it stands after training."""
    model.eval()
    tuned = logits(model, rows)
    if not isinstance(model, PeftModel):
        return TrainedLogits(tuned, None)
    with model.disable_adapter():
        return TrainedLogits(tuned, logits(model, rows))


def reload_adapter(base: Any, adapter_dir: Path) -> Any:
    """The saved adapter on a fresh base, by plain peft."""
    return PeftModel.from_pretrained(base, str(adapter_dir)).eval()


def reload_model(model_dir: Path, like: Any) -> Any:
    """A saved full fine-tune, by plain transformers, in the precision and place of `like`."""
    return AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=like.dtype, use_safetensors=True, device_map={"": like.device}
    ).eval()


def logits(model: Any, rows: list[list[int]]) -> Logits:
    """Every position's logits for each row by itself: no padding, no autocast."""
    with torch.no_grad():
        return [
            model(input_ids=torch.tensor([row], device=model.device), use_cache=False)
            .logits.float()
            .cpu()
            for row in rows
        ]


def max_difference(left: Logits, right: Logits) -> float:
    """The largest |left - right| over all rows, positions and words."""
    return max(float((a - b).abs().max()) for a, b in zip(left, right, strict=True))


def _pair_names(tokens: Any) -> tuple[str, str]:
    return "prompt_ids", "chosen_ids" if "chosen_ids" in tokens.column_names else "completion_ids"
