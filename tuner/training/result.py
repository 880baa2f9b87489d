"""result.json: what came out of a run, in the names that the shell, the page and the card read."""

import importlib.metadata
from typing import Any

from tuner.device import this_device
from tuner.runs.events import current_history
from tuner.runs.store import Run
from tuner.training.keep import Kept
from tuner.training.prepare import Prepared

LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "bitsandbytes",
    "accelerate",
    "datasets",
    "tokenizers",
    "huggingface_hub",
)


def run_result(
    run: Run, prepared: Prepared, state: str, facts: dict[str, Any], kept: Kept
) -> dict[str, Any]:
    """Join what the session measured with what the run's events tell, over all its sessions.

    Args:
        facts: Of this process: parameters, memory, seconds, tokens, proof.
        kept: The weights in adapter/ or model/.
    """
    history = current_history(run.events(0)[0])
    metrics = [event for event in history if event["kind"] == "metric"]
    return {
        "state": state,
        "kept_step": kept.step,
        "train_loss": _mean([event["loss"] for event in metrics]),
        "base_eval_loss": _base_eval_loss(history),
        "eval_loss": kept.eval_loss,
        "tokens_per_second": _mean([event["tokens_per_second"] for event in metrics]),
        "estimated_memory_bytes": prepared.estimate.estimated_memory_bytes,
        "estimated_seconds": prepared.estimate.estimated_seconds,
        "train_rows": len(prepared.train),
        "eval_rows": len(prepared.evaluation) if prepared.evaluation is not None else 0,
        "truncated_rows": prepared.tokens.truncated,
        "trained_token_share": round(prepared.tokens.trained_token_share, 4),
        "device": str(prepared.device),
        "hardware": _hardware(),
        "dtype": prepared.recipe.dtype,
        "data_fingerprint": prepared.data_fingerprint,
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        **facts,
    }


def _hardware() -> dict[str, Any]:
    """What it ran on, for whoever wants to repeat it elsewhere."""
    device = this_device()
    return {
        "name": device.name,
        "count": device.count,
        "cores": device.cores,
        "memory_bytes": device.memory_bytes,
    }


def _base_eval_loss(history: list[Any]) -> float | None:
    losses = [e["eval_loss"] for e in history if e["kind"] == "eval" and e["step"] == 0]
    return losses[0] if losses else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
