"""
Which of the form's events does what: its components, the handlers (form_events.py), in between.

A control writes the recipe's text; the text's change event works out all that follows. What writes
at once is not queued: it takes a millisecond, and none may overtake another's typing.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr

from tuner.data.columns import ROLES
from tuner.ui.consequences import ROWS_SHOWN
from tuner.ui.fine_tune import Form
from tuner.ui.form_events import FormEvents
from tuner.ui.form_updates import FIELDS, Updates, controls, followers

AT_ONCE: dict[str, Any] = {
    "queue": False,
    "show_progress": "hidden",
    "api_visibility": "private",
    "trigger_mode": "always_last",
}
# For choices: each is sent at once, so that they arrive in the order in which they were made.
IN_ORDER: dict[str, Any] = AT_ONCE | {"trigger_mode": "multiple"}
LONG: dict[str, Any] = AT_ONCE | {"queue": True, "concurrency_limit": 8}
ONCE: dict[str, Any] = LONG | {"trigger_mode": "once"}

# In the browser: the recipe's text is there already.
SAVE_RECIPE = """(text) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/yaml" }));
  link.download = "recipe.yaml";
  link.click();
  URL.revokeObjectURL(link.href);
}"""
# The draft outlives a reload in the browser's storage; what is in it is no secret.
KEEP_DRAFT = """(text) => { localStorage.setItem("tuner-draft", text); }"""
KEPT_DRAFT = """(box, text) => [box, localStorage.getItem("tuner-draft") || text]"""
# A download button offers the file that it was given before the click; so it gets one of its own.
CLICK_CLEANED = """() => setTimeout(() => {
  const found = document.querySelector("#tuner-cleaned-file");
  (found.matches("a, button") ? found : found.querySelector("a, button")).click();
}, 200)"""


def wire_form(form: Form, events: FormEvents, page: gr.Blocks) -> None:
    """Connect the form's components with its handlers."""
    _wire_choices(form, events)
    _wire_fields(form, events)
    _wire_data(form, events)
    _wire_rows(form, events)
    _wire_consequences(form, events, page)
    form.recipe_download.click(None, form.recipe, js=SAVE_RECIPE)
    form.start.click(
        events.start,
        [form.box, form.recipe, form.name],
        [form.run_view.run, form.problems],
        **{**ONCE, "show_progress": "minimal"},
    ).success(None, form.run_view.run, None, js="(run) => { if (run) window.Tuner.open(run); }")


def _wire_choices(form: Form, events: FormEvents) -> None:
    """What changes more than one setting: text and controls come back in one answer."""
    for trigger, handler, source, how in (
        (form.preset.input, events.choose_preset, form.preset, IN_ORDER),
        (form.base_model.input, events.choose_base_model, form.base_model, LONG),
        (form.method.input, events.choose_method, form.method, IN_ORDER),
        (form.earlier.input, events.begin_with_run, form.earlier, IN_ORDER),
        (form.recipe_upload.upload, events.upload_recipe, form.recipe_upload, LONG),
    ):
        # Not the control itself: a second choice made meanwhile would be taken back.
        shown = [form.recipe, form.problems, *(c for c in controls(form) if c is not source)]
        trigger(_without(source, handler), [form.box, form.recipe, source], shown, **how)
    form.recipe.input(events.type_recipe, [form.box, form.recipe], controls(form), **AT_ONCE)
    form.earlier.focus(events.offer_earlier_runs, None, form.earlier, **AT_ONCE)


def _without(source: Any, handler: Callable[..., dict[Any, Any]]) -> Callable[..., dict[Any, Any]]:
    @wraps(handler)
    def handle(*given: Any) -> dict[Any, Any]:
        return {key: shown for key, shown in handler(*given).items() if key is not source}

    return handle


def _wire_fields(form: Form, events: FormEvents) -> None:
    """All fields come with each event: of two that change in quick succession none is lost."""
    shown = [form.fields[field.key] for field in FIELDS]
    gr.on(
        [component.input for component in shown],
        events.set_fields,
        [form.box, form.recipe, *shown],
        form.recipe,
        **AT_ONCE,
    )


def _wire_data(form: Form, events: FormEvents) -> None:
    hub = [form.hub_id, form.hub_config, form.hub_split]
    boxes = [form.mapping[role] for role in ROLES]
    form.data_kind.input(
        events.choose_data_kind,
        [form.box, form.recipe, form.data_kind],
        [form.recipe, form.data_problem, form.files, form.hub_row, *hub],
        **IN_ORDER,
    )
    gr.on(
        [form.files.upload, form.files.delete, form.files.clear],
        events.take_files,
        [form.box, form.recipe, form.files, form.data_kind],
        [form.recipe, form.data_problem],
        **LONG,
    )
    gr.on(
        [form.hub_id.input, form.hub_config.submit, form.hub_split.submit],
        events.choose_hub_dataset,
        [form.box, form.recipe, *hub],
        form.recipe,
        **AT_ONCE,
    )
    gr.on(
        [box.input for box in (form.skip_bad_rows, *boxes)],
        events.map_columns,
        [form.box, form.recipe, form.skip_bad_rows, *boxes],
        form.recipe,
        **AT_ONCE,
    )
    form.use_suggestion.click(
        events.use_suggestion, [form.box, form.recipe, form.suggestion], form.recipe, **AT_ONCE
    )
    form.held_out.change(
        events.ask_own_questions,
        [form.box, form.recipe, form.held_out],
        [form.recipe, form.fields["sample_prompts"]],
        **AT_ONCE,
    )


def _wire_rows(form: Form, events: FormEvents) -> None:
    inputs = [form.recipe, form.first_row]
    rows = [form.first_row, form.rows, form.data_problem]
    for trigger, by in (
        (form.previous.click, -ROWS_SHOWN),
        (form.following.click, ROWS_SHOWN),
        (form.first_row.submit, 0),
    ):
        trigger(_turning(events, by), inputs, rows, **LONG)
    form.drawn.click(events.draw, form.recipe, form.rows, **LONG)
    form.cleaned.click(events.write_cleaned, form.recipe, form.cleaned_file, **ONCE).success(
        None, js=CLICK_CLEANED
    )


def _turning(events: FormEvents, by: int) -> Callable[..., Updates]:
    # Not partial(), of which Gradio does not see that it wants the request.
    def turn(text: str, first: float | None, request: gr.Request) -> Updates:
        return events.turn(text, first, request, by)

    return turn


def _wire_consequences(form: Form, events: FormEvents, page: gr.Blocks) -> None:
    asked, followed = [form.box, form.recipe, form.seen], followers(form)
    form.recipe.change(events.follow, asked, followed, **LONG)
    form.recipe.change(None, form.recipe, js=KEEP_DRAFT)
    page.load(
        events.restore,
        [form.box, form.recipe],
        [form.recipe, *controls(form)],
        js=KEPT_DRAFT,
        **AT_ONCE,
    ).then(events.follow, asked, followed, **LONG)
