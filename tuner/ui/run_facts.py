"""
What a run is and what came of it, in words: from recipe.yaml, data/report.json, result.json.

A run of an older version, or one whose files were edited, shows what there is: a fact that cannot
be told is left out, and nothing is raised.
"""

import json
from collections.abc import Mapping
from typing import Any

from tuner.quantities import duration, gigabytes, loss, parameters, share
from tuner.runs.pushes import last_push
from tuner.runs.redact import redact
from tuner.runs.run import Run
from tuner.ui.run_settings import SHORT_HASH, Settings, number, shortened
from tuner.ui.uploads import shown_source

Facts = list[tuple[str, str]]

BITS = {"nf4": 4, "int8": 8}
OBJECTIVES = {"sft": "imitate the answers", "dpo": "prefer answers (DPO)", "kto": "judge (KTO)"}


def method(settings: Settings) -> str | None:
    """How the recipe trains, as the field calls it.

    >>> method(Settings({"adapter": "lora", "quantization": "nf4"}))
    'QLoRA 4-bit'
    """
    adapter = settings.text("adapter")
    if adapter == "none":
        return "full fine-tuning"
    name = {"lora": "LoRA", "dora": "DoRA"}.get(adapter or "")
    if name is None:
        return None
    full = 32 if settings.text("dtype") == "float32" else 16
    bits = BITS.get(settings.text("quantization") or "", full)
    return f"{'Q' if bits == 4 else ''}{name} {bits}-bit"


def facts(settings: Settings, report: Mapping[str, Any], device: str | None) -> Facts:
    """What the run trains, on what and how.

    Args:
        report: data/report.json; empty before the data is prepared.
        device: As status.json has it.
    """
    told = [
        ("Preset", settings.text("preset")),
        ("Base model", _base_model(settings)),
        ("Method", method(settings)),
        ("Adapter", _adapter(settings)),
        ("Data", _source(settings)),
        ("Rows", _rows(report)),
        ("Left out", _left_out(report)),
        ("Data license", _text(report.get("license"))),
        ("Objective", OBJECTIVES.get(settings.text("objective") or "")),
        ("Length", _length(settings)),
        ("Batch size", _whole(settings.number("batch_size"))),
        ("Learning rate", _learning_rate(settings)),
        ("Row length", _tokens(settings.number("max_length"))),
        ("Device", _text(device)),
    ]
    return _known(told)


def result_facts(result: Mapping[str, Any]) -> Facts:
    """The figures and the proof of a run that ended, from its result.json."""
    told = [
        ("Eval loss", _eval_loss(result)),
        ("Train loss", _loss(number(result, "train_loss"))),
        ("Kept weights", _step(number(result, "kept_step"))),
        ("Trained", _trained(result)),
        ("Time", _duration(number(result, "seconds"))),
        ("Speed", _per_second(number(result, "tokens_per_second"))),
        ("Memory peak", _memory(result)),
        ("Truncated rows", _whole(number(result, "truncated_rows"))),
        ("Frozen base", _base_proof(result.get("base_weights_unchanged"))),
        ("Effect", _effect(number(result, "adapter_effect_max_logit_diff"))),
        ("Loaded again", _reload(number(result, "adapter_reload_max_logit_diff"))),
    ]
    return _known(told)


def copy_facts(run: Run) -> Facts:
    """How far the copies on the Hub are that push_every_save asks for; none where it does not."""
    arrived, failed = last_push(run)
    parts = [arrived["message"] if arrived else "", failed["message"] if failed else ""]
    return _known([("Copies", " ".join(filter(None, parts)))])


def use_code(settings: Settings, *, is_adapter: bool) -> str:
    """Python code that loads what the run kept, from its download, unpacked.

    Args:
        is_adapter: adapter/ beside a base model; else model/, which needs none.
    """
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    if not is_adapter:
        lines += ['model = AutoModelForCausalLM.from_pretrained("model")']
        return "\n".join([*lines, 'tokenizer = AutoTokenizer.from_pretrained("model")'])
    base = settings.text("base_model") or "BASE_MODEL"
    # As literals: a name is anybody's text, and this code will be run.
    arguments = ["tuner/starter/model" if base == "starter" else base]
    revision = settings.text("revision") if base != "starter" else None
    called = ", ".join([_literal(arguments[0]), *_revision(revision)])
    return "\n".join(
        [
            "from peft import PeftModel",
            *lines,
            f"base = AutoModelForCausalLM.from_pretrained({called})",
            'model = PeftModel.from_pretrained(base, "adapter")',
            'tokenizer = AutoTokenizer.from_pretrained("adapter")',
        ]
    )


def _source(settings: Settings) -> str | None:
    source = settings.text("dataset.source")
    return shown_source(source) if source else None


def _known(told: list[tuple[str, str | None]]) -> Facts:
    return [(label, redact(text)) for label, text in told if text]


def _text(value: Any) -> str | None:
    return shortened(value) if isinstance(value, str) else None


def _base_model(settings: Settings) -> str | None:
    base, revision = settings.text("base_model"), settings.text("revision")
    if base == "starter":
        return "the built-in practice model"
    return f"{base} at {revision[:SHORT_HASH]}" if base and revision else base


def _adapter(settings: Settings) -> str | None:
    rank, alpha = settings.number("lora.r"), settings.number("lora.lora_alpha")
    if settings.text("adapter") in (None, "none") or rank is None or alpha is None:
        return None
    modules = settings.flat.get("lora.target_modules")
    where = ", ".join(map(str, modules)) if isinstance(modules, list) else f"{modules or ''}"
    where = where.replace("all-linear", "all linear layers")
    return shortened(f"r {rank:g}, lora_alpha {alpha:g}" + (f", on {where}" if where else ""))


def _rows(report: Mapping[str, Any]) -> str | None:
    train, held_out = number(report, "train_rows"), number(report, "eval_rows")
    if train is None:
        return None
    return f"{train:,} to train on" + (f", {held_out:,} held out" if held_out else "")


def _left_out(report: Mapping[str, Any]) -> str | None:
    dropped = report.get("dropped")
    counts = list(dropped.values()) if isinstance(dropped, dict) else []
    unusable = sum(number(entry, "count") or 0 for entry in counts if isinstance(entry, dict))
    parts = [
        (number(report, "duplicates"), "repeated"),
        (number(report, "bad_row_count"), "unreadable"),
        (unusable, "unusable"),
    ]
    return ", ".join(f"{count:,} {what}" for count, what in parts if count) or None


def _length(settings: Settings) -> str | None:
    steps, epochs = settings.number("max_steps"), settings.number("num_train_epochs")
    if steps is not None:
        return f"{steps:,} steps"
    return None if epochs is None else f"{epochs:g} epoch{'' if epochs == 1 else 's'}"


def _learning_rate(settings: Settings) -> str | None:
    rate, scheduler = settings.number("learning_rate"), settings.text("lr_scheduler_type")
    return None if rate is None else ", ".join(filter(None, [f"{rate:g}", scheduler]))


def _tokens(count: float | None) -> str | None:
    return None if count is None else f"{count:,} tokens at most"


def _whole(count: float | None) -> str | None:
    return None if count is None else f"{count:,}"


def _loss(value: float | None) -> str | None:
    return None if value is None else loss(value)


def _step(step: float | None) -> str | None:
    return None if step is None else f"of step {step:,}"


def _duration(seconds: float | None) -> str | None:
    return None if seconds is None else duration(seconds)


def _per_second(speed: float | None) -> str | None:
    return f"{speed:,.0f} tokens/s" if speed else None


def _eval_loss(result: Mapping[str, Any]) -> str | None:
    before, after = number(result, "base_eval_loss"), number(result, "eval_loss")
    if after is None:
        return None
    rows = number(result, "eval_rows")
    change = f"{loss(before)} → {loss(after)}" if before is not None else loss(after)
    return f"{change} on {rows:,} held-out rows" if rows else change


def _trained(result: Mapping[str, Any]) -> str | None:
    trained, total = number(result, "trainable_parameters"), number(result, "total_parameters")
    if trained is None or not total:
        return None
    some, whole = parameters(int(trained)), parameters(int(total))
    return f"{some} of {whole} parameters ({share(trained, total)})"


def _memory(result: Mapping[str, Any]) -> str | None:
    peak, estimated = number(result, "peak_memory_bytes"), number(result, "estimated_memory_bytes")
    if not peak:
        return None
    return gigabytes(peak) + (f", estimated {gigabytes(estimated)}" if estimated else "")


def _base_proof(unchanged: Any) -> str | None:
    if not isinstance(unchanged, bool):
        return None
    return "unchanged, bit for bit" if unchanged else "CHANGED: please report this"


def _effect(difference: float | None) -> str | None:
    if difference is None:
        return None
    if difference == 0:
        return "none: it answers exactly as the base does"
    return f"logits move by up to {difference:.3g}"


def _reload(difference: float | None) -> str | None:
    if difference is None:
        return None
    return "the same logits" if difference == 0 else f"logits within {difference:.2g}"


def _revision(revision: str | None) -> list[str]:
    return [f"revision={_literal(revision)}"] if revision else []


def _literal(text: str) -> str:
    return json.dumps(text)
