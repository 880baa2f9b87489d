"""
The data a run trained on, as a card tells it: where it is from, how much, under which licence.

No row is ever in a card; a local file is named, and no more.
"""

import re
from pathlib import Path

from tuner.hub.card.base import HUB, is_non_commercial
from tuner.hub.card.facts import Facts
from tuner.hub.card.markdown import code, text
from tuner.hub.local_paths import PROJECT_ROOT, last_name
from tuner.presets import HubDataset, Preset

HUB_DATASET = re.compile(
    r"(?:(?:https?://huggingface\.co/|hf://)datasets/)?(\w[\w.-]*/\w[\w.-]*)(?:[/?#].*)?"
)
UPLOADS = ".uploads"  # ui/uploads.py keeps files there, in folders named after their contents
UPLOAD = re.compile(r"[0-9a-f]{16}")


def hub_dataset(facts: Facts) -> str | None:
    """The data set's id, where it surely came from the Hub."""
    settings, revision = facts.recipe.dataset, facts.report.get("revision")
    found = HUB_DATASET.fullmatch(settings.source.strip())
    is_named = settings.kind == "hub" or "://" in settings.source or isinstance(revision, str)
    return found[1] if found and is_named else None


def shown_source(source: str) -> str:
    """What a local source is called.

    >>> shown_source("/home/ann/rows.csv"), shown_source("runs/.uploads/0123456789abcdef")
    ('rows.csv', 'uploaded files')
    """
    name = last_name(source)
    return "uploaded files" if UPLOADS in Path(source).parts and UPLOAD.fullmatch(name) else name


def dataset_name(facts: Facts) -> str:
    """What the data set is called in one line of plain text."""
    if is_sample(facts) and facts.preset:
        return f"sample data of the preset {facts.preset.name}"
    return hub_dataset(facts) or shown_source(facts.recipe.dataset.source) or "not named"


def is_sample(facts: Facts) -> bool:
    """Whether it is the data that comes with the preset."""
    if facts.preset is None:
        return False
    sample, source = _sample_source(facts.preset), facts.recipe.dataset.source
    return sample is not None and sample in (source, _relative(source))


def data_licence(facts: Facts) -> str | None:
    """As the Hub stated it when the data was read, or as the preset knows it."""
    stated = facts.report.get("license")
    if isinstance(stated, str) and stated.strip():
        return stated
    if facts.preset is None:
        return None
    if is_sample(facts):
        return facts.preset.about.sample_data.licence
    known = _known(facts)
    return known.licence if known else None


def data_lines(facts: Facts) -> str:
    """The section's list."""
    fingerprint = facts.recipe.dataset.fingerprint or facts.report.get("fingerprint")
    lines = [
        _source_line(facts),
        _rows_line(facts),
        f"Fingerprint (SHA-256 of the rows): {code(str(fingerprint))}" if fingerprint else "",
        licence_line(facts),
    ]
    return "\n".join(f"- {line}" for line in lines if line)


def licence_line(facts: Facts) -> str:
    """The data's licence, and what it forbids."""
    licence = data_licence(facts)
    if not licence:
        return "Licence of the data: not stated."
    told = f"Licence of the data: {text(licence)}."
    if is_non_commercial(licence):
        told += " **Not for commercial use**: that holds for what was trained on it, too."
    return told


def _source_line(facts: Facts) -> str:
    if is_sample(facts) and facts.preset:
        note = facts.preset.about.sample_data.note
        return f"{_capital(dataset_name(facts))}. {note or ''}".strip()
    dataset = hub_dataset(facts)
    if dataset is None:
        source = facts.recipe.dataset.source
        return f"{code(shown_source(source))}, which is not published here." if source else ""
    settings, revision = facts.recipe.dataset, facts.report.get("revision")
    parts = [
        f"[{text(dataset)}]({HUB}/datasets/{dataset})",
        f"configuration {code(settings.config)}" if settings.config else "",
        f"split {code(settings.split)}",
        f"at {code(revision)}" if isinstance(revision, str) else "",
    ]
    return ", ".join(filter(None, parts))


def _rows_line(facts: Facts) -> str:
    train, held_out = facts.count("train_rows"), facts.count("eval_rows")
    if train is None:
        return ""
    told = [f"{train:,} rows to train on"]
    if held_out:
        told.append(f"{held_out:,} held out")
    if cut := facts.figure("truncated_rows"):
        told.append(f"{cut:,.0f} of them cut at {facts.recipe.max_length:,} tokens")
    return ", ".join(told) + "."


def _known(facts: Facts) -> HubDataset | None:
    assert facts.preset
    dataset = hub_dataset(facts)
    return next((d for d in facts.preset.about.hub_datasets if d.id == dataset), None)


def _sample_source(preset: Preset) -> str | None:
    source = preset.values.get("dataset", {}).get("source")
    return source if isinstance(source, str) else None


def _relative(source: str) -> str:
    try:
        return str(Path(source).relative_to(PROJECT_ROOT))
    except ValueError:
        return source


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
