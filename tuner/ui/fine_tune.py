"""
The Fine-tune tab: what for, base model, data, method, settings, Start.

Layout and wiring only. Each control writes into the recipe's YAML (draft.py); whenever that
changes, everything that follows from it is worked out again (consequences.py). What the events do
is in form_events.py.
"""

from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import gradio as gr

from tuner.data.columns import ROLES
from tuner.presets import load_preset, preset_names
from tuner.ui import draft
from tuner.ui.base_model_view import suggestions
from tuner.ui.fields import MAIN, Field, fields
from tuner.ui.method_view import labels
from tuner.ui.run_view import RunView, build_run_view
from tuner.ui.services import Services

PRESET_ORDER = ("chatbot", "code", "medical", "legal")
DATA_KINDS = [
    ("Sample data", "sample"),
    ("Your files", "files"),
    ("Hub dataset", "hub"),
    ("Code repository", "repository"),
]
ROLE_LABELS = {role: role.capitalize() for role in ROLES}


@dataclass
class Form:
    """The form's components, by what they are for."""

    recipe: gr.Code
    preset: gr.Radio
    earlier: gr.Dropdown
    base_model: gr.Dropdown
    base_info: gr.HTML
    chat_with_base: gr.Button
    data_kind: gr.Radio
    files: gr.File
    hub_row: gr.Row
    hub_id: gr.Dropdown
    hub_config: gr.Textbox
    hub_split: gr.Textbox
    data_problem: gr.HTML
    report: gr.HTML
    mapping_row: gr.Row
    mapping: dict[str, gr.Dropdown]
    skip_bad_rows: gr.Checkbox
    use_suggestion: gr.Button
    suggestion: gr.State
    rows_bar: gr.Row
    rows: gr.HTML
    first_row: gr.Number
    previous: gr.Button
    following: gr.Button
    drawn: gr.Button
    cleaned: gr.Button
    cleaned_file: gr.DownloadButton
    method: gr.Radio
    method_problem: gr.HTML
    fields: dict[str, Any]
    settings_problem: gr.HTML
    recipe_download: gr.Button
    recipe_upload: gr.UploadButton
    summary: gr.HTML
    name: gr.Textbox
    start: gr.Button
    problems: gr.HTML
    box: gr.State
    seen: gr.State
    held_out: gr.State
    run_view: RunView = field(init=False)


def build_fine_tune(services: Services) -> Form:
    """Lay out the tab: the form, and in its place the run once one is open."""
    with gr.Column(elem_id="tuner-form"), gr.Row(elem_id="tuner-columns"):
        with gr.Column(scale=3, min_width=320, elem_id="tuner-steps"):
            parts = {
                **_what_for(),
                **_base_model(services),
                **_data(),
                **_method(),
                **_settings(),
            }
        with gr.Column(scale=1, min_width=280, elem_id="tuner-summary"):
            parts |= _summary()
    form = Form(**parts, box=gr.State(draft.DraftBox()), seen=gr.State(None), held_out=gr.State([]))
    form.run_view = build_run_view(shared=not services.paths.any_path)
    return form


def _step(number: int, title: str) -> gr.HTML:
    return gr.HTML(f"<h2><span>{number}</span> {title}</h2>", elem_classes="tuner-step")


def _what_for() -> dict[str, Any]:
    _step(1, "What for")
    cards = []
    for name in sorted(preset_names(), key=_place):
        about = load_preset(name).about
        cards.append((f"{about.icon} {about.title}\n{about.description}\n{about.needs}", name))
    preset = gr.Radio(
        cards,
        value=draft.FIRST_PRESET,
        label="What for",
        show_label=False,
        elem_classes="tuner-cards",
        elem_id="tuner-presets",
    )
    earlier = gr.Dropdown(
        [], value=None, label="Or start from an earlier run", elem_id="tuner-earlier"
    )
    return {"preset": preset, "earlier": earlier}


def _place(preset: str) -> int:
    return PRESET_ORDER.index(preset) if preset in PRESET_ORDER else len(PRESET_ORDER)


def _base_model(services: Services) -> dict[str, Any]:
    _step(2, "Base model")
    base_model = gr.Dropdown(
        suggestions(services.device),
        value="starter",
        allow_custom_value=True,
        label="Base model",
        show_label=False,
        info="Choose one, or type a Hub id or the path of a folder and press Enter.",
        elem_id="tuner-base-model",
    )
    info = gr.HTML(elem_id="tuner-base-info")
    chat = gr.Button("Chat with it as it is", size="sm", elem_id="tuner-chat-with-base")
    return {"base_model": base_model, "base_info": info, "chat_with_base": chat}


def _data() -> dict[str, Any]:
    _step(3, "Data")
    parts: dict[str, Any] = {
        "data_kind": gr.Radio(
            DATA_KINDS,
            value="sample",
            label="Where the data comes from",
            show_label=False,
            elem_classes="tuner-switch",
            elem_id="tuner-data-kind",
        ),
        "files": gr.File(
            file_count="multiple",
            visible=False,
            label="CSV, JSON, JSONL, Parquet, text or zip. Several files are read as one.",
            height=140,
            elem_id="tuner-files",
        ),
    }
    with gr.Row(visible=False, elem_id="tuner-hub") as parts["hub_row"]:
        parts["hub_id"] = gr.Dropdown(
            [],
            value=None,
            allow_custom_value=True,
            label="Dataset id",
            info="namespace/name, then Enter.",
            scale=3,
        )
        parts["hub_config"] = gr.Textbox(label="Configuration", info="If it has several.")
        parts["hub_split"] = gr.Textbox("train", label="Split", info="Which part to train on.")
    parts["data_problem"] = gr.HTML(elem_id="tuner-data-problem")
    parts["report"] = gr.HTML(elem_id="tuner-report")
    parts |= _mapping()
    with gr.Row(visible=False, elem_id="tuner-rows-bar") as parts["rows_bar"]:
        parts["previous"] = gr.Button("‹ previous", size="sm")
        parts["first_row"] = gr.Number(
            1, precision=0, minimum=1, label="First row shown", elem_id="tuner-first-row"
        )
        parts["following"] = gr.Button("next ›", size="sm")
        parts["drawn"] = gr.Button("random rows", size="sm")
        parts["cleaned"] = gr.Button("Download the cleaned file", size="sm")
        parts["cleaned_file"] = gr.DownloadButton(visible="hidden", elem_id="tuner-cleaned-file")
    parts["rows"] = gr.HTML(elem_id="tuner-rows")
    return parts


def _mapping() -> dict[str, Any]:
    with gr.Row(visible=False, elem_id="tuner-mapping") as row:
        mapping = {
            role: gr.Dropdown(
                [], value=[], multiselect=True, label=f"{ROLE_LABELS[role]} ←", min_width=150
            )
            for role in ROLES
        }
        skip = gr.Checkbox(
            label="Leave unreadable rows out",
            info="Otherwise one bad row stops the start.",
            min_width=150,
        )
        use = gr.Button(visible="hidden", size="sm", elem_id="tuner-use-suggestion")
    return {
        "mapping_row": row,
        "mapping": mapping,
        "skip_bad_rows": skip,
        "use_suggestion": use,
        "suggestion": gr.State({}),
    }


def _method() -> dict[str, Any]:
    _step(4, "Method")
    method = gr.Radio(
        labels(None),
        value="lora",
        label="Method",
        show_label=False,
        elem_classes="tuner-cards",
        elem_id="tuner-methods",
    )
    return {"method": method, "method_problem": gr.HTML(elem_id="tuner-method-problem")}


def _settings() -> dict[str, Any]:
    _step(5, "Settings")
    every = fields()
    main = [field for field in every if field.key in MAIN]
    values = draft.read_draft(draft.first_draft()).values
    with gr.Row(elem_id="tuner-main-settings"):
        made = {field.key: _component(field, values) for field in main}
    problem = gr.HTML(elem_id="tuner-settings-problem")
    with gr.Accordion("All settings, and the recipe as YAML", open=False, elem_id="tuner-more"):
        others = sorted((f for f in every if f.key not in MAIN), key=lambda field: field.group)
        for group, members in groupby(others, lambda field: field.group):
            gr.HTML(f"<h3>{group}</h3>", elem_classes="tuner-group")
            with gr.Row(elem_classes="tuner-fields"):
                made |= {field.key: _component(field, values) for field in members}
        recipe = gr.Code(
            draft.first_draft(),
            language="yaml",
            label="The whole recipe; edit it here, the fields follow",
            elem_id="tuner-recipe",
            max_lines=40,
            buttons=["copy"],  # one to download stands below
        )
        with gr.Row():
            download = gr.Button("Download recipe.yaml", size="sm")
            upload = gr.UploadButton("Upload a recipe", file_types=[".yaml", ".yml"], size="sm")
    return {
        "fields": made,
        "settings_problem": problem,
        "recipe": recipe,
        "recipe_download": download,
        "recipe_upload": upload,
    }


def _component(field: Field, values: dict[str, Any]) -> Any:
    """The control of one setting."""
    common = {"label": field.label, "info": field.help, "min_width": 160}
    common["elem_id"] = f"tuner-{field.key.replace('.', '-')}"
    value = field.shown(values)
    if field.kind == "flag":
        return gr.Checkbox(value, **common)
    if field.kind == "choice":
        return gr.Dropdown(list(field.choices), value=value, **common)
    return gr.Textbox(value, lines=4 if field.kind == "lines" else 1, **common)


def _summary() -> dict[str, Any]:
    gr.HTML("<h2>Summary</h2>", elem_classes="tuner-step")
    return {
        "summary": gr.HTML(elem_id="tuner-figures"),
        "problems": gr.HTML(elem_id="tuner-problems"),
        "name": gr.Textbox(
            label="Name", placeholder="support-bot", info="Optional.", elem_id="tuner-name"
        ),
        "start": gr.Button("Start", variant="primary", elem_id="tuner-start"),
    }
