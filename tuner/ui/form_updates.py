"""
What the form's components show of a draft and of its consequences: component → update.

Plain functions of the form and values; which event they answer is form_wiring.py's.
"""

from typing import Any

import gradio as gr

from tuner.presets import load_preset, preset_names
from tuner.ui import draft
from tuner.ui.base_model_view import base_model_html
from tuner.ui.consequences import Consequences
from tuner.ui.data_view import (
    ROLES_OF,
    mapping,
    report_html,
    rows_html,
    suggestion_words,
)
from tuner.ui.fields import fields
from tuner.ui.fine_tune import Form
from tuner.ui.markup import element, notes
from tuner.ui.method_view import labels, summary_html
from tuner.ui.words import all_in_page_words

Updates = dict[Any, Any]
FIELDS = fields()
CHECKED = element("p", "✓ checks passed")


def unchanged(component: Any) -> Updates:
    """No update at all; an empty mapping would be taken for a value."""
    return {component: gr.skip()}


def controls(form: Form) -> list[Any]:
    """Everything that shows a part of the recipe's text."""
    return [
        form.preset, form.base_model, form.method, form.data_kind, form.skip_bad_rows, form.files,
        form.hub_row, form.hub_id, form.hub_config, form.hub_split, *form.fields.values(),
    ]  # fmt: skip


def followers(form: Form) -> list[Any]:
    """Everything that shows what follows from it."""
    return [
        form.recipe, form.base_info, form.method_problem, form.settings_problem, form.problems,
        form.start, form.seen, form.held_out, form.report, form.rows, form.rows_bar, form.first_row,
        form.mapping_row, form.suggestion, form.use_suggestion, form.method, form.summary,
        *form.mapping.values(),
    ]  # fmt: skip


def controls_shown(form: Form, text: str) -> Updates:
    """Let every control show what the text says. A text that is no YAML changes none."""
    values = draft.read_draft(text).values
    if not values:
        return unchanged(form.skip_bad_rows)
    preset, kind = values.get("preset"), draft.data_kind(values)
    shown: Updates = {form.fields[field.key]: field.shown(values) for field in FIELDS}
    shown |= {
        form.preset: preset if preset in preset_names() else None,
        form.base_model: values.get("base_model"),
        form.method: draft.method_of(values),
        form.data_kind: kind,
        form.skip_bad_rows: bool(draft.section(values, "dataset").get("skip_bad_rows")),
    }
    return shown | data_inputs_shown(form, kind, values)


def data_inputs_shown(form: Form, kind: str, values: dict[str, Any]) -> Updates:
    """The inputs that a kind of data asks for."""
    data, hub, preset = draft.section(values, "dataset"), kind == "hub", values.get("preset")
    offered = load_preset(preset).about.hub_datasets if preset in preset_names() else []
    return {
        form.files: gr.update(visible=kind in ("files", "repository")),
        form.hub_row: gr.update(visible=hub),
        form.hub_id: gr.update(
            choices=[(f"{one.id} · {one.licence}", one.id) for one in offered],
            value=data.get("source") if hub else None,
        ),
        form.hub_config: data.get("config") or "" if hub else "",
        form.hub_split: data.get("split") or "train" if hub else "train",
    }


def consequences_shown(form: Form, now: Consequences) -> Updates:
    """What is known so far; what is not known yet stays as it is."""
    updates: Updates = {
        form.method_problem: notes(now.problems("method"), "problem"),
        form.settings_problem: notes(now.problems("settings"), "problem"),
        form.problems: _state_html(now),
        form.start: gr.update(interactive=now.may_start),
        form.seen: now.seen,
    }
    if now.lookup:
        updates[form.base_info] = base_model_html(now.lookup)
    if now.look:
        updates |= _data_shown(form, now)
    elif now.busy or not now.draft.source:
        updates |= _no_data_shown(form, now)
    if now.figures and now.draft.recipe:
        updates |= _figures_shown(form, now)
    return updates


def _no_data_shown(form: Form, now: Consequences) -> Updates:
    reading = element("p", f"{now.busy} …", class_="tuner-busy")
    return {
        form.report: reading if now.busy else notes(now.problems("data"), "problem"),
        form.rows: "",
        form.rows_bar: gr.update(visible=False),
    }


def _figures_shown(form: Form, now: Consequences) -> Updates:
    recipe, figures, seen = now.draft.recipe, now.figures, now.seen
    assert recipe is not None and figures is not None
    sizes, held_out = (seen.sizes, seen.held_out) if seen else (None, 0)
    return {
        form.method: gr.update(choices=labels(figures)),
        form.summary: summary_html(recipe, figures, sizes, held_out),
    }


def _data_shown(form: Form, now: Consequences) -> Updates:
    found, recipe = now.look, now.draft.recipe
    assert found is not None and recipe is not None
    shown = found["preview"]
    own = draft.is_own_data(now.draft.values)
    # The sample's are not shown. Given to boxes out of sight, they might come back with the next.
    chosen = mapping(found, recipe.dataset.columns, recipe.objective) if own else {}
    updates: Updates = {
        form.report: report_html(found),
        form.rows: rows_html(shown["examples"]) if shown else "",
        form.rows_bar: gr.update(visible=shown is not None),
        form.first_row: 1,
        form.held_out: found["prompts"],
        form.suggestion: found["suggestion"],
        form.use_suggestion: _suggestion_shown(found["suggestion"]),
        form.mapping_row: gr.update(visible=own and bool(found["columns"])),
    }
    for role, box in form.mapping.items():
        updates[box] = gr.update(
            choices=found["columns"],
            value=chosen.get(role, []),
            visible=role in ROLES_OF[recipe.objective],
        )
    return updates


def _suggestion_shown(suggestion: dict[str, list[str]]) -> Any:
    """The button that takes the suggestion. Hidden it stays in the page: one that is mounted as it
    gets its words may miss them."""
    if not suggestion:
        return gr.update(visible="hidden")
    return gr.update(value=suggestion_words(suggestion), visible=True)


def _state_html(now: Consequences) -> str:
    """Beside Start: why it cannot be pressed, or that everything was checked."""
    if problems := now.problems():
        return notes(all_in_page_words(problems), "problem")
    return CHECKED if now.done else element("p", f"{now.busy or 'Checking'} …")
