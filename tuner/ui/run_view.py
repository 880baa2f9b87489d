"""
One run on the page: live by its custom element (static/run.js), acted upon by these buttons.

Which buttons show is the stylesheet's to decide, by the run's state (`body[data-run-state]`), so
that following a run asks nothing of Gradio.
"""

from dataclasses import dataclass

import gradio as gr


@dataclass
class RunView:
    """The components around a run.

    Attributes:
        run: The run's id; filled in the browser just before an event (`CURRENT`).
        said: What came of a click.
    """

    run: gr.Textbox
    leave: gr.Button
    stop: gr.Button
    resume: gr.Button
    again: gr.Button
    chat: gr.Button
    publish: gr.Button
    publicize: gr.Button
    hide: gr.Button
    delete: gr.Button
    asking: gr.Row
    question: gr.HTML
    delete_really: gr.Button
    keep: gr.Button
    said: gr.HTML


CURRENT = "(...given) => [window.Tuner.current(), ...given.slice(1)]"


def build_run_view(*, shared: bool = False) -> RunView:
    """Lay out the view. It is empty until a run is open.

    Args:
        shared: Whether others can reach the page, so that a run can be shown to them.
    """
    with gr.Column(elem_id="tuner-run"):
        with gr.Row(elem_id="tuner-run-actions"):
            close = gr.Button("‹ New fine-tune", size="sm", elem_id="tuner-close")
            leave = gr.Button("Leave the line", size="sm", elem_id="tuner-leave")
            stop = gr.Button("Stop and keep the adapter", size="sm", elem_id="tuner-stop")
            resume = gr.Button("Resume", size="sm", variant="primary", elem_id="tuner-resume")
            chat = gr.Button("Chat with it", size="sm", variant="primary", elem_id="tuner-chat")
            publish = gr.Button("Publish it", size="sm", elem_id="tuner-publish")
            publicize = gr.Button(
                "Show it to everybody", size="sm", visible=shared, elem_id="tuner-publicize"
            )
            hide = gr.Button("Keep it to yourself", size="sm", visible=shared, elem_id="tuner-hide")
            again = gr.Button("Start again with changes", size="sm", elem_id="tuner-again")
            delete = gr.Button("Delete …", size="sm", elem_id="tuner-delete")
        with gr.Row(visible=False, elem_id="tuner-asking") as asking:
            question = gr.HTML()
            really = gr.Button("Delete for good", size="sm", variant="stop", elem_id="tuner-really")
            keep = gr.Button("Keep it", size="sm")
        said = gr.HTML(elem_id="tuner-said")
        gr.HTML("<tuner-run></tuner-run>", elem_id="tuner-live-run")
        run = gr.Textbox(visible=False)
    close.click(None, js="() => { window.Tuner.close(); }")
    return RunView(
        run=run,
        leave=leave,
        stop=stop,
        resume=resume,
        again=again,
        chat=chat,
        publish=publish,
        publicize=publicize,
        hide=hide,
        delete=delete,
        asking=asking,
        question=question,
        delete_really=really,
        keep=keep,
        said=said,
    )
