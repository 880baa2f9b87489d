"""Which of the playground's events does what."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from tuner.ui.fine_tune import Form
from tuner.ui.form_updates import Updates
from tuner.ui.form_wiring import AT_ONCE, LONG, ONCE
from tuner.ui.playground import Playground
from tuner.ui.playground_events import PlaygroundEvents
from tuner.ui.run_view import CURRENT

CHATTERS = 32  # people who are answered at once; the engine batches them
ANSWERS = LONG | {"trigger_mode": "once", "concurrency_limit": CHATTERS}
NEXT = ANSWERS | {"trigger_mode": "always_last"}  # asked while an answer comes, it is the next one
SHOW = "() => { window.Tuner.showTab('Playground'); }"
SAVE = """() => setTimeout(() => {
  const found = document.querySelector("#tuner-conversation-file");
  (found.matches("a, button") ? found : found.querySelector("a, button")).click();
}, 200)"""


def wire_playground(
    play: Playground, events: PlaygroundEvents, form: Form, page: gr.Blocks
) -> None:
    """Connect the tab's components with its handlers, and the ways that lead to it."""
    _wire_ways_in(play, events, form)
    _wire_voices(play, events, page)
    _wire_questions(play, events)
    _wire_judgements(play, events)
    for kind, button in play.download.items():
        button.click(
            _saving(events, kind), [play.who, play.more, *_given(play)], play.file, **ONCE
        ).success(None, js=SAVE)
    play.unload.click(events.unload, None, play.said, **ONCE)


def _wire_ways_in(play: Playground, events: PlaygroundEvents, form: Form) -> None:
    panes = [part for pane in play.panes for part in (pane.chat, pane.figures)]
    opened = [play.who, *chosen(play), *panes]
    form.run_view.chat.click(
        events.open_run, form.run_view.run, opened, js=CURRENT, **ONCE
    ).success(None, js=SHOW)
    form.chat_with_base.click(events.open_base, form.base_model, opened, **ONCE).success(
        None, js=SHOW
    )


def chosen(play: Playground) -> list[gr.components.Component]:
    """What changes when somebody else answers."""
    return [
        play.said, play.more, play.system_prompt, play.try_prompt, play.tally, play.votes,
        play.reference, play.changed_shown, *play.sampling.values(),
        *(part for pane in play.panes for part in (pane.column, pane.title)),
    ]  # fmt: skip


def _wire_voices(play: Playground, events: PlaygroundEvents, page: gr.Blocks) -> None:
    play.who.focus(events.offer, None, play.who, **AT_ONCE)
    page.load(events.offer, None, play.who, **AT_ONCE)
    play.who.input(events.choose, play.who, chosen(play), **LONG)
    gr.on(
        [play.more.input, play.blind.input],
        events.change_panes,
        [play.who, play.more, play.blind],
        chosen(play),
        **LONG,
    )


def _wire_questions(play: Playground, events: PlaygroundEvents) -> None:
    answered = [
        play.prompt, play.said, play.order, play.votes, play.changed_shown,
        *(part for pane in play.panes for part in (pane.chat, pane.figures)),
    ]  # fmt: skip
    asked = [play.who, play.more, play.blind, *_given(play)]
    asking = gr.on(
        [play.ask.click, play.prompt.submit],
        events.ask,
        [play.prompt, *asked],
        answered,
        **NEXT,
    )
    again = play.again.click(events.ask_again, asked, answered, **ANSWERS)
    play.stop.click(None, cancels=[asking, again])
    play.try_prompt.input(lambda prompt: prompt or "", play.try_prompt, play.prompt, **AT_ONCE)
    play.held_out.click(events.take_held_out, play.who, [play.prompt, play.reference], **LONG)
    play.edit.click(events.edit, [pane.chat for pane in play.panes], answered, **AT_ONCE)
    play.clear.click(events.clear, None, [*answered, play.reference], **AT_ONCE)


def _wire_judgements(play: Playground, events: PlaygroundEvents) -> None:
    left, right = play.panes[0].chat, play.panes[1].chat
    for winner, button in play.vote_buttons.items():
        button.click(
            _voting(events, winner), [play.who, play.order, left, right], chosen(play), **ONCE
        )
    play.changed.click(
        events.what_changed, [play.who, play.system_prompt, right], play.changed_shown, **LONG
    )


# Not partial(), of which Gradio does not see that it wants the request.


def _saving(events: PlaygroundEvents, kind: str) -> Callable[..., str]:
    def save(who: str | None, more: list[str], request: gr.Request, *given: Any) -> str:
        return events.save(kind, who, more, request, *given)

    return save


def _voting(events: PlaygroundEvents, winner: str) -> Callable[..., Updates]:
    def vote(
        who: str | None, order: list[int], left: Any, right: Any, request: gr.Request
    ) -> Updates:
        return events.vote(winner, who, order, left, right, request)

    return vote


def _given(play: Playground) -> list[gr.components.Component]:
    """All panes, then how answers are drawn."""
    return [
        *(pane.chat for pane in play.panes),
        play.system_prompt,
        *play.sampling.values(),
        play.stop_strings,
    ]
