"""
The Playground tab: base and tuned side by side, asked the same question, in one batched pass.

Layout only; what the events do is in playground_events.py.
"""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from tuner.chat.voices import Sampling

MOST_PANES = 8
# Field of Sampling → what it is called and does.
SAMPLING_FIELDS = {
    "temperature": ("Temperature", "0 always takes the likeliest token."),
    "max_new_tokens": ("Longest answer", "In tokens."),
    "seed": ("Seed", "The same seed and question give the same answer."),
    "top_p": ("Top-p", "Draw from the likeliest tokens that make up this share. 1: all."),
    "top_k": ("Top-k", "Draw from so many likeliest tokens. 0: all."),
    "min_p": ("Min-p", "Leave out what is less likely than this share of the likeliest. 0: none."),
    "repetition_penalty": ("Repetition penalty", "Above 1 avoids what was said. 1: none."),
}


@dataclass
class Pane:
    """One voice's side."""

    column: gr.Column
    title: gr.HTML
    chat: gr.Chatbot
    figures: gr.HTML


@dataclass
class Playground:
    """The tab's components, by what they are for.

    Attributes:
        order: Which voice stands in which pane, while that is hidden.
    """

    who: gr.Dropdown
    more: gr.Dropdown
    blind: gr.Checkbox
    panes: list[Pane]
    votes: gr.Row
    vote_buttons: dict[str, gr.Button]
    tally: gr.HTML
    said: gr.HTML
    prompt: gr.Textbox
    ask: gr.Button
    stop: gr.Button
    again: gr.Button
    edit: gr.Button
    clear: gr.Button
    held_out: gr.Button
    try_prompt: gr.Dropdown
    reference: gr.HTML
    changed: gr.Button
    changed_shown: gr.HTML
    system_prompt: gr.Textbox
    sampling: dict[str, gr.Number]
    stop_strings: gr.Textbox
    download: dict[str, gr.Button]
    file: gr.DownloadButton
    unload: gr.Button
    order: gr.State


def build_playground() -> Playground:
    """Lay out the tab."""
    with gr.Row(elem_id="tuner-who"):
        who = gr.Dropdown(
            [],
            value=None,
            allow_custom_value=True,
            label="Who answers",
            info="A run; or an adapter by its folder or Hub id, and Enter.",
            scale=2,
        )
        more = gr.Dropdown(
            [], value=[], multiselect=True, max_choices=MOST_PANES - 2, label="And also", scale=2
        )
        blind = gr.Checkbox(
            label="Blind", info="Hide who is who, and vote.", elem_id="tuner-blind", scale=1
        )
    with gr.Row(elem_id="tuner-panes"):
        panes = [_pane(at) for at in range(MOST_PANES)]
    with gr.Row(visible=False, elem_id="tuner-votes") as votes:
        buttons = {
            winner: gr.Button(words, size="sm")
            for winner, words in (
                ("left", "A is better"),
                ("tie", "about the same"),
                ("right", "B is better"),
                ("both bad", "both bad"),
            )
        }
    tally, said = gr.HTML(elem_id="tuner-tally"), gr.HTML(elem_id="tuner-chat-said")
    with gr.Row(elem_id="tuner-ask-row"):
        prompt = gr.Textbox(
            label="Ask all of them",
            show_label=False,
            placeholder="Ask all of them. Enter sends, Shift+Enter breaks the line.",
            lines=1,
            max_lines=8,
            scale=6,
            elem_id="tuner-prompt",
        )
        ask = gr.Button("Ask", variant="primary", scale=0, elem_id="tuner-ask")
        stop = gr.Button("Stop", scale=0, elem_id="tuner-chat-stop")
    with gr.Row(elem_id="tuner-chat-actions"):
        again = gr.Button("Ask again", size="sm")
        edit = gr.Button("Edit the question", size="sm", elem_id="tuner-edit")
        held_out = gr.Button("A held-out row", size="sm", elem_id="tuner-held-out")
        changed = gr.Button("What changed", size="sm", elem_id="tuner-changed")
        clear = gr.Button("Clear", size="sm")
        download = {
            "md": gr.Button("Save as Markdown", size="sm"),
            "json": gr.Button("Save as JSON", size="sm"),
        }
        file = gr.DownloadButton(visible="hidden", elem_id="tuner-conversation-file")
        unload = gr.Button("Unload the model", size="sm", elem_id="tuner-unload")
    reference = gr.HTML(elem_id="tuner-reference")
    changed_shown = gr.HTML(elem_id="tuner-changed-shown")
    try_prompt = gr.Dropdown([], value=None, label="Try one of the recipe's questions")
    sampling, system_prompt, stop_strings = _settings()
    return Playground(
        who, more, blind, panes, votes, buttons, tally, said, prompt, ask, stop, again, edit, clear,
        held_out, try_prompt, reference, changed, changed_shown, system_prompt, sampling,
        stop_strings, download, file, unload, gr.State([]),
    )  # fmt: skip


def _pane(at: int) -> Pane:
    with gr.Column(min_width=260, visible=at < 2, elem_classes="tuner-pane") as column:
        title = gr.HTML()
        chat = gr.Chatbot(
            label=f"Answers {at + 1}",
            show_label=False,
            height=360,
            buttons=["copy"],
            feedback_options=None,
            placeholder="Choose a run above, and ask.",
        )
        figures = gr.HTML(elem_classes="tuner-pane-figures")
    return Pane(column, title, chat, figures)


def _settings() -> tuple[dict[str, gr.Number], gr.Textbox, gr.Textbox]:
    usual: dict[str, Any] = vars(Sampling())
    with gr.Accordion("System prompt and how answers are drawn", open=False):
        system_prompt = gr.Textbox(
            label="System prompt", lines=2, info="Put before the conversation, as in training."
        )
        with gr.Row(elem_classes="tuner-fields"):
            sampling = {
                name: gr.Number(
                    usual[name],
                    label=label,
                    info=words,
                    precision=0 if isinstance(usual[name], int) else None,
                    min_width=160,
                )
                for name, (label, words) in SAMPLING_FIELDS.items()
            }
            stop_strings = gr.Textbox(label="Stop strings", info="One a line; they end an answer.")
    return sampling, system_prompt, stop_strings
