"""Which of the Publish tab's events does what."""

from typing import Any

import gradio as gr

from tuner.ui.fine_tune import Form
from tuner.ui.form_wiring import AT_ONCE, LONG, ONCE
from tuner.ui.publish import Publishing
from tuner.ui.publish_events import PublishEvents
from tuner.ui.publish_exports import ExportEvents
from tuner.ui.run_view import CURRENT

PUSHES = 4  # at once, of all people together
SENDING: dict[str, Any] = ONCE | {"concurrency_limit": PUSHES, "concurrency_id": "publish"}
SHOW = "() => { window.Tuner.showTab('Publish'); }"
# The browser fetches what was made; the link to it stays, in case it was stopped.
SAVE = """(address) => {
  if (!address) return;
  const link = document.createElement("a");
  link.href = address;
  link.download = "";
  link.click();
}"""


def wire_publish(
    tab: Publishing, events: PublishEvents, exports: ExportEvents, form: Form, page: gr.Blocks
) -> None:
    """Connect the tab's components with their handlers, and the way that leads to it."""
    page.load(events.offer, None, tab.who, **AT_ONCE)
    page.load(events.show_whom, None, [tab.whom, tab.token], **AT_ONCE)
    _wire_run(tab, events, form)
    _wire_card(tab, events)
    _wire_target(tab, events)
    _wire_button(tab, events)
    _wire_exports(tab, exports)


def _card_parts(tab: Publishing) -> list[gr.components.Component]:
    return [tab.made, tab.source, tab.card_facts, tab.card_shown]


def _target(tab: Publishing) -> list[gr.components.Component]:
    """What a check asks with."""
    return [tab.who, tab.repo, tab.revision, tab.private, tab.token, tab.source, tab.made]


def _wire_run(tab: Publishing, events: PublishEvents, form: Form) -> None:
    chosen = [
        *_card_parts(tab), tab.who, tab.repo, tab.repo_problem, tab.revision, tab.what, tab.whom,
        tab.token, tab.facts, tab.confirm, tab.said, tab.contents, tab.zip_link, tab.export_said,
    ]  # fmt: skip
    suggested = [*_card_parts(tab), tab.repo, tab.facts]
    checked = [*_card_parts(tab), tab.facts, tab.confirm]
    tab.who.focus(events.offer, None, tab.who, **AT_ONCE)
    tab.who.input(events.choose, tab.who, chosen, **LONG).success(
        events.suggest, [tab.who, tab.repo, tab.source, tab.made], suggested, **LONG
    ).success(events.check, _target(tab), checked, **LONG)
    form.run_view.publish.click(
        events.open_run, form.run_view.run, chosen, js=CURRENT, **ONCE
    ).success(None, js=SHOW).success(
        events.suggest, [tab.who, tab.repo, tab.source, tab.made], suggested, **LONG
    ).success(events.check, _target(tab), checked, **LONG)


def _wire_card(tab: Publishing, events: PublishEvents) -> None:
    tab.view.input(
        events.show_card,
        [tab.view, tab.source, tab.who],
        [tab.preview, tab.source, tab.anew, tab.card_facts, tab.card_shown],
        **AT_ONCE,
    )
    tab.anew.click(events.write_anew, [tab.who, tab.repo], [*_card_parts(tab), tab.said], **LONG)


def _wire_target(tab: Publishing, events: PublishEvents) -> None:
    checked = [*_card_parts(tab), tab.facts, tab.confirm]
    gr.on(
        [tab.repo.input, tab.revision.input],
        events.type_repo,
        [tab.repo, tab.revision],
        [tab.repo_problem, tab.facts, tab.confirm],
        **AT_ONCE,
    )
    boxes = (tab.repo, tab.revision, tab.token)
    gr.on(
        [tab.private.input, *(box.blur for box in boxes), *(box.submit for box in boxes)],
        events.check,
        _target(tab),
        checked,
        **LONG,
    )
    tab.what.input(events.show_contents, [tab.who, tab.what], tab.contents, **LONG)


def _wire_button(tab: Publishing, events: PublishEvents) -> None:
    buttons = [tab.publish, tab.cancel]
    told = [*_card_parts(tab), *buttons, tab.said, tab.facts, tab.confirm, tab.token]
    sending = gr.on(
        [tab.publish.click, tab.confirm.submit],
        events.publish,
        [*_target(tab), tab.what, tab.confirm],
        told,
        **SENDING,
    )
    sending.failure(events.failed, None, [*buttons, tab.said], **AT_ONCE)
    tab.cancel.click(events.cancelled, None, [*buttons, tab.said], cancels=[sending], **AT_ONCE)


def _wire_exports(tab: Publishing, exports: ExportEvents) -> None:
    shown = [tab.export_said, tab.cancel_export, tab.address]
    making = []
    for button, make in (
        (tab.merged, exports.merged),
        (tab.script, exports.script),
        (tab.notebook, exports.notebook),
    ):
        made = button.click(make, tab.who, shown, **SENDING)
        made.success(None, tab.address, None, js=SAVE)
        made.failure(exports.failed, None, [tab.cancel_export, tab.export_said], **AT_ONCE)
        making.append(made)
    tab.cancel_export.click(
        exports.cancelled, None, [tab.cancel_export, tab.export_said], cancels=making, **AT_ONCE
    )
