"""
Recognise which column is what, and say why.

    recognise(["QUESTION", "LONG_ANSWER"], rows, {}, "sft").reason
    "Columns QUESTION and LONG_ANSWER are a question and its answer."

A mapping given by the user wins, and is completed only where one column is beyond doubt. Shapes
known without a mapping are in shapes.py. Where two readings are possible, the answer is a request
for a mapping, never a choice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tuner.data.columns import (
    Columns,
    Roles,
    listed,
    read_mapping,
    suggested_mapping,
)
from tuner.data.conversion import to_conversation, to_text
from tuner.data.shapes import (
    ANSWERS,
    CHOSEN,
    LABELS,
    PROMPTS,
    REJECTED,
    SYSTEMS,
    Format,
    Sample,
    context_roles,
    conversation_shape,
    document_shape,
    labelled_format,
    labelled_shape,
    pair_shape,
    preference_format,
    preference_shape,
    text_shape,
)
from tuner.errors import DatasetError

__all__ = ["Format", "recognise"]


def recognise(
    columns: Sequence[str],
    sample: Sequence[Mapping[str, Any]],
    mapping: Mapping[str, Any],
    objective: str,
    *,
    name: str = "the data",
) -> Format:
    """Find out what the columns are.

    Args:
        columns: All column names met in the sample, in order.
        sample: The first rows.
        mapping: DatasetSettings.columns; it wins over recognition.
        objective: "sft", "dpo" or "kto".
        name: The source, for the sentences.

    Raises:
        DatasetError: Nothing recognised, two readings possible, a mapping of columns that are not
            there, or data of another objective.
    """
    table = Columns(columns)
    mapped = read_mapping(mapping, table, name)
    if mapped.keys() - {"system"}:
        found: Format | None = _by_mapping(table, sample, mapped, objective, name)
    else:
        found = _by_name(table, sample, mapped, objective, name)
    _require_objective(found, objective, table, name)
    if found is None:
        raise DatasetError(
            f"{name}: its columns are not recognised: {table.shown()}. Say which is what, for "
            f"example {suggested_mapping(table, sample)}"
        )
    return _with_unused_columns(found, table)


def _by_name(
    table: Columns, sample: Sample, mapped: Roles, objective: str, name: str
) -> Format | None:
    found = preference_shape(table, sample, objective)
    found = found or labelled_shape(table, sample, objective, name)
    if found is None and objective == "sft":
        found = (
            conversation_shape(table, sample, name)
            or pair_shape(table, name)
            or document_shape(table)
            or text_shape(table, name)
        )
    system = mapped.get("system") or table.all_of(SYSTEMS)[:1]
    if found is None or not system or found.kind == "text":
        return found
    return replace(found, columns={"system": system, **found.columns})


def _by_mapping(table: Columns, sample: Sample, mapped: Roles, objective: str, name: str) -> Format:
    roles = dict(mapped)
    if "text" in roles:
        reason = f"Column {listed(roles['text'])} is the text, as mapped"
        return Format("mapping", reason, "text", {"text": roles["text"]}, to_text)
    if "chosen" in roles or "rejected" in roles:
        return _mapped_preference(table, sample, roles, objective, name)
    if "messages" not in roles:
        taken = {column for columns in mapped.values() for column in columns}
        for role, tiers in (("prompt", PROMPTS), ("answer", ANSWERS)):
            known = next(filter(None, map(table.all_of, tiers)), [])
            _complete(roles, role, [column for column in known if column not in taken], name)
    if objective == "kto":
        _complete(roles, "label", table.all_of(LABELS), name)
    if "label" in roles:
        return labelled_format("mapping", roles, objective)
    return Format("mapping", f"Column {_mapped(roles)}, as mapped", "sft", roles, to_conversation)


def _mapped_preference(
    table: Columns, sample: Sample, roles: Roles, objective: str, name: str
) -> Format:
    for role, names in (("chosen", CHOSEN), ("rejected", REJECTED)):
        _complete(roles, role, table.all_of(names), name)
    if "prompt" not in roles and "messages" not in roles:
        roles |= context_roles(table, sample)
    return preference_format("mapping", "a preferred and a rejected answer", roles, objective)


def _complete(roles: Roles, role: str, candidates: list[str], name: str) -> None:
    """Fill in a role that the mapping leaves open, if there is exactly one candidate."""
    if role in roles:
        return
    if len(candidates) != 1:
        given = listed([f"{key}={','.join(columns)}" for key, columns in roles.items()])
        raise DatasetError(
            f"{name}: the mapping {given} leaves open which column is the {role}. "
            f"Add --map {role}={candidates[0] if candidates else 'COLUMN'}"
        )
    roles[role] = candidates


def _mapped(roles: Roles) -> str:
    return listed([f"{' + '.join(columns)} is the {role}" for role, columns in roles.items()])


def _require_objective(found: Format | None, objective: str, table: Columns, name: str) -> None:
    needed = {"dpo": "preference", "kto": "kto"}.get(objective)
    if needed is None or (found and found.kind == needed):
        return
    what, options = {
        "dpo": ("pairs of answers, in columns chosen and rejected", "chosen=… --map rejected=…"),
        "kto": (
            "answers with a label, in columns prompt, completion and label (good or bad)",
            "prompt=… --map answer=… --map label=…",
        ),
    }[objective]
    fitting = {"preference": "dpo", "kto": "kto"}.get(found.kind if found else "", "sft")
    raise DatasetError(
        f"objective={objective} learns from {what}; {name} has {table.shown()}. "
        f"Set objective to {fitting}, or map the columns: --map {options}"
    )


def _with_unused_columns(found: Format, table: Columns) -> Format:
    used = {column for columns in found.columns.values() for column in columns}
    unused = [column[:60] for column in table.names if column not in used]
    if len(unused) > 12:
        unused = [*unused[:11], f"{len(unused) - 11} more"]
    tail = f" Not used: {', '.join(unused)}." if unused else ""
    return replace(found, reason=f"{found.reason}.{tail}")
