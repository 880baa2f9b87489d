"""What a run came to, in a few lines: loss before and after, speed, memory, an answer compared."""

from typing import Any

from tuner.quantities import duration, gigabytes, loss, parameters, share
from tuner.runs.store import Run

ANSWER_CHARACTERS = 300


def result_text(run: Run, state: str, reason: str = "") -> str:
    """The summary of a run that ended, from its result.json and its samples."""
    result = run.result()
    if result is None:
        return "\n".join(filter(None, [f"{run.id} {state}.", reason]))
    lines = [
        _headline(run, state, result),
        reason,
        _losses(result),
        _parameters(result),
        _samples(run, result),
        f"The adapter is in {run.adapter_dir}." if run.adapter_dir.is_dir() else "",
        f"The model is in {run.model_dir}." if run.model_dir.is_dir() else "",
    ]
    return "\n".join(filter(None, lines))


def _headline(run: Run, state: str, result: dict[str, Any]) -> str:
    speed = result.get("tokens_per_second")
    parts = [f"{run.id} {state}: {result['steps']:,} steps"]
    if result.get("seconds") is not None:
        parts[0] += f" in {duration(result['seconds'])}"
    return ", ".join([*parts, *([f"{speed:,.0f} tokens/s"] if speed else [])]) + "."


def _losses(result: dict[str, Any]) -> str:
    if result.get("eval_loss") is None:
        return f"train loss {loss(result.get('train_loss'))}; no rows were held out."
    before = result.get("base_eval_loss")
    change = f"{loss(before)} → " if before is not None else ""
    return (
        f"eval loss {change}{loss(result['eval_loss'])} on {result['eval_rows']:,} held-out rows"
        f" (step {result['kept_step']:,})."
    )


def _parameters(result: dict[str, Any]) -> str:
    trained, total = result["trainable_parameters"], result["total_parameters"]
    line = f"{share(trained, total)} of {parameters(total)} parameters trained"
    peak = result.get("peak_memory_bytes")
    if peak:
        estimated = gigabytes(result["estimated_memory_bytes"])
        line += f"; memory peak {gigabytes(peak)}, estimated {estimated}"
    return f"{line}."


def _samples(run: Run, result: dict[str, Any]) -> str:
    """The first prompt's answer by the base and by the weights that were kept."""
    samples = [e for e in run.events()[0] if e["kind"] == "sample" and e["index"] == 0]
    before = [sample for sample in samples if sample["step"] == 0]
    after = [sample for sample in samples if 0 < sample["step"] <= result["kept_step"]]
    if not before or not after:
        return ""
    return "\n".join(
        [
            f'"{_short(after[-1]["prompt"])}"',
            f"  before: {_short(before[-1]['text'])}",
            f"  after:  {_short(after[-1]['text'])}",
        ]
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= ANSWER_CHARACTERS else line[: ANSWER_CHARACTERS - 1] + "…"
