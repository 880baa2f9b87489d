"""
The Publish tab: the model card as it will look on the left; where it goes, as whom and what it
contains on the right; one button.

Layout only; what the events do is in publish_events.py. What is typed into the token's box is
nobody's to keep: no default, no storage in the browser, and no handler that sends it back.
"""

from dataclasses import dataclass
from typing import Any

import gradio as gr

ADAPTER, MERGED = "adapter", "merged"
PREVIEW, SOURCE = "As it will look", "Source"
EMPTY = (
    "<p class='tuner-busy'>Choose a run: its model card will be here, to be read and edited before "
    "anything is published.</p>"
)


@dataclass
class Publishing:
    """The tab's components, by what they are for.

    Attributes:
        made: The card as it was made, and for which repository: what was edited shows against it.
        facts: What the Hub says of the target; `said` is what came of the button.
        address: Of a finished export; the browser fetches it.
    """

    who: gr.Dropdown
    made: gr.State
    view: gr.Radio
    preview: gr.Column
    card_facts: gr.HTML
    card_shown: gr.Markdown
    source: gr.Textbox
    anew: gr.Button
    repo: gr.Textbox
    repo_problem: gr.HTML
    private: gr.Checkbox
    what: gr.Radio
    revision: gr.Textbox
    whom: gr.HTML
    token: gr.Textbox
    facts: gr.HTML
    confirm: gr.Textbox
    publish: gr.Button
    cancel: gr.Button
    said: gr.HTML
    contents: gr.HTML
    zip_link: gr.HTML
    merged: gr.Button
    script: gr.Button
    notebook: gr.Button
    cancel_export: gr.Button
    export_said: gr.HTML
    address: gr.Textbox


def build_publish() -> Publishing:
    """Lay out the tab."""
    who = gr.Dropdown(
        [], value=None, label="Run", info="Runs that kept an adapter.", elem_id="tuner-publish-run"
    )
    with gr.Row(elem_id="tuner-publish-columns"):
        with gr.Column(scale=3, min_width=320, elem_id="tuner-card"):
            parts = _card()
        with gr.Column(scale=2, min_width=300, elem_id="tuner-target"):
            parts |= _target()
            parts |= _button()
            parts |= _contents()
            parts |= _without_the_hub()
    return Publishing(who=who, made=gr.State(None), **parts)


def _heading(words: str) -> None:
    gr.HTML(f"<h2>{words}</h2>", elem_classes="tuner-step")


def _card() -> dict[str, Any]:
    _heading("Model card")
    parts: dict[str, Any] = {
        "view": gr.Radio(
            [PREVIEW, SOURCE],
            value=PREVIEW,
            label="Show the card",
            show_label=False,
            elem_classes="tuner-switch",
            elem_id="tuner-card-view",
        )
    }
    with gr.Column(elem_id="tuner-card-preview") as parts["preview"]:
        parts["card_facts"] = gr.HTML(EMPTY)
        # Dollar signs are money and shell variables here, not formulas.
        parts["card_shown"] = gr.Markdown(
            latex_delimiters=[], sanitize_html=True, elem_id="tuner-card-shown"
        )
    parts["source"] = gr.Textbox(
        label="Model card, in Markdown",
        info="README.md of the repository. The lines between --- are read by the Hub.",
        lines=24,
        max_lines=40,
        visible=False,
        elem_id="tuner-card-source",
    )
    parts["anew"] = gr.Button(
        "Write the card anew", size="sm", visible=False, elem_id="tuner-card-anew"
    )
    return parts


def _target() -> dict[str, Any]:
    _heading("Where it goes")
    quiet = gr.InputHTMLAttributes(autocapitalize="off", spellcheck=False, autocomplete="off")
    parts: dict[str, Any] = {}
    with gr.Row(elem_id="tuner-repo-row"):
        parts["repo"] = gr.Textbox(
            label="Repository",
            placeholder="your-name/model-name",
            html_attributes=quiet,
            max_length=200,
            scale=3,
            elem_id="tuner-repo",
        )
        parts["revision"] = gr.Textbox(
            label="Branch",
            placeholder="main",
            html_attributes=quiet,
            max_length=200,
            scale=1,
            min_width=96,
            elem_id="tuner-branch",
        )
    parts |= {
        "repo_problem": gr.HTML(elem_id="tuner-repo-problem"),
        "private": gr.Checkbox(
            True, label="Private", info="Only you see it; that can be changed on the Hub later."
        ),
        "what": gr.Radio(
            [
                ("Adapter\nSmall; loads on its base model", ADAPTER),
                ("Merged 16-bit\nThe whole model, with the adapter in it", MERGED),
            ],
            value=ADAPTER,
            label="What is published",
            show_label=False,
            elem_classes="tuner-cards",
            elem_id="tuner-what",
        ),
        "whom": gr.HTML(elem_id="tuner-whom"),
        "token": gr.Textbox(
            type="password",
            label="Token for this push",
            info="From huggingface.co/settings/tokens, with write access. It is not kept.",
            html_attributes=gr.InputHTMLAttributes(autocomplete="off", spellcheck=False),
            max_length=400,
            visible=False,
            elem_id="tuner-token",
        ),
    }
    parts["facts"] = gr.HTML(elem_id="tuner-target-facts")
    parts["confirm"] = gr.Textbox(
        label="Type its name to publish into it",
        html_attributes=quiet,
        max_length=200,
        visible=False,
        elem_id="tuner-confirm",
    )
    return parts


def _button() -> dict[str, Any]:
    with gr.Row(elem_id="tuner-publish-row"):
        publish = gr.Button("Publish", variant="primary", elem_id="tuner-publish-now")
        cancel = gr.Button("Cancel", visible=False, elem_id="tuner-publish-cancel")
    return {"publish": publish, "cancel": cancel, "said": gr.HTML(elem_id="tuner-publish-said")}


def _contents() -> dict[str, Any]:
    _heading("What it contains")
    return {"contents": gr.HTML(elem_id="tuner-contents")}


def _without_the_hub() -> dict[str, Any]:
    _heading("Without the Hub")
    with gr.Row(elem_id="tuner-exports"):
        zip_link = gr.HTML(elem_id="tuner-zip-link")
        merged = gr.Button("Merged weights and Modelfile", size="sm", elem_id="tuner-merged")
        script = gr.Button("Training script", size="sm", elem_id="tuner-script")
        notebook = gr.Button("Notebook", size="sm", elem_id="tuner-notebook")
        cancel = gr.Button("Cancel", size="sm", visible=False, elem_id="tuner-export-cancel")
    return {
        "zip_link": zip_link,
        "merged": merged,
        "script": script,
        "notebook": notebook,
        "cancel_export": cancel,
        "export_said": gr.HTML(elem_id="tuner-export-said"),
        "address": gr.Textbox(visible=False),
    }
