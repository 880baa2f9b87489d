"""
What the buttons around a run do: stop, leave the line, resume, start again, delete.

The run is the one that the page shows; its id comes from the browser with the click (CURRENT).
"""

import time
from collections.abc import Callable
from typing import Any

import gradio as gr

from tuner.errors import TunerError
from tuner.runs import launch
from tuner.runs.names import slug_of
from tuner.runs.queue import enqueue, leave
from tuner.runs.run import Run
from tuner.runs.status import ENDED_STATES
from tuner.ui import draft
from tuner.ui.fine_tune import Form
from tuner.ui.form_events import FormEvents
from tuner.ui.form_updates import controls
from tuner.ui.form_wiring import AT_ONCE, LONG
from tuner.ui.markup import element, notes
from tuner.ui.run_view import CURRENT
from tuner.ui.saves import start_copies
from tuner.ui.services import Services

CLOSE = "() => { window.Tuner.close(); }"
BUTTON: dict[str, Any] = LONG | {"trigger_mode": "once", "concurrency_limit": None}
ENDING_SECONDS = 10.0  # from a process's last word to its end; usually less than one


class RunEvents:
    """Handlers of the buttons; each returns what to say under them."""

    def __init__(self, services: Services):
        self.services = services

    def stop(self, run_id: str, request: gr.Request) -> str:
        return self._do(run_id, request, launch.stop)

    def leave(self, run_id: str, request: gr.Request) -> str:
        return self._do(run_id, request, leave)

    def resume(self, run_id: str, request: gr.Request) -> str:
        def resume(run: Run) -> None:
            visit = self.services.visit(request)
            visit.require_resuming(run)
            self._resume(run)
            start_copies(visit.person, run)

        said = self._do(run_id, request, resume)
        self.services.dispatcher.wake()
        return said

    def publicize(self, run_id: str, request: gr.Request) -> str:
        """Let everybody who reaches the page look at the run and talk to it."""
        return self._do(run_id, request, lambda run: run.update_status(public=True))

    def hide(self, run_id: str, request: gr.Request) -> str:
        """Keep the run to its owner again."""
        return self._do(run_id, request, lambda run: run.update_status(public=False))

    def again(self, run_id: str, box: draft.DraftBox, request: gr.Request) -> str:
        """Let the form begin with the run's recipe."""
        try:
            return box.put(draft.of_recipe(self.services.visit(request).run(run_id).recipe()))
        except TunerError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def ask(self, run_id: str, request: gr.Request) -> tuple[Any, str]:
        try:
            run = self.services.visit(request).own_run(run_id)
        except TunerError as error:
            raise gr.Error(str(error), print_exception=False) from None
        words = (
            f"Delete {slug_of(run.id)} with its adapter, checkpoints and log? "
            "This cannot be undone."
        )
        return gr.update(visible=True), element("p", words)

    def delete(self, run_id: str, request: gr.Request) -> Any:
        try:
            self.services.store.delete(self.services.visit(request).own_run(run_id).id)
        except TunerError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return gr.update(visible=False)

    def _resume(self, run: Run) -> None:
        # The button is there once the run has its last word, a moment before its process is gone.
        until = time.monotonic() + ENDING_SECONDS
        while run.status()["state"] in ENDED_STATES and run.is_process_alive():
            if time.monotonic() > until:
                break
            time.sleep(0.1)
        enqueue(self.services.store, run, resume=True)

    def _do(self, run_id: str, request: gr.Request, action: Callable[[Run], Any]) -> str:
        try:
            action(self.services.visit(request).own_run(run_id))
        except TunerError as error:
            return notes(error.problems, "problem")
        return ""


def wire_run(form: Form, form_events: FormEvents, services: Services) -> None:
    """Connect the buttons around a run."""
    view, events = form.run_view, RunEvents(services)
    for button, action in (
        (view.stop, events.stop),
        (view.leave, events.leave),
        (view.resume, events.resume),
        (view.publicize, events.publicize),
        (view.hide, events.hide),
    ):
        button.click(action, view.run, view.said, js=CURRENT, **BUTTON)
    view.again.click(events.again, [view.run, form.box], form.recipe, js=CURRENT, **BUTTON).success(
        form_events.type_recipe, [form.box, form.recipe], controls(form), **AT_ONCE
    ).success(None, js=CLOSE)
    view.delete.click(events.ask, view.run, [view.asking, view.question], js=CURRENT, **BUTTON)
    view.delete_really.click(events.delete, view.run, view.asking, js=CURRENT, **BUTTON).success(
        None, js=CLOSE
    )
    view.keep.click(lambda: gr.update(visible=False), None, view.asking, **AT_ONCE)
