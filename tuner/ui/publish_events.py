"""
What the Publish tab's controls do: parse, ask the engine, show.

A pasted token comes with an event, goes to the call it is for, and is never sent back.
The hub's modules are imported when they are needed: its client takes half a second to import, which
nobody who only opens the page has to wait for.
Not covered: who may publish what (publish_rights.py), exports (publish_exports.py).
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, TypedDict

import gradio as gr

from tuner.errors import HubError, TunerError
from tuner.hub.target import Target, TargetFacts, check_target
from tuner.runs.names import slug_of
from tuner.runs.store import Run
from tuner.ui.form_updates import Updates
from tuner.ui.markup import notes
from tuner.ui.options import in_a_space
from tuner.ui.publish import ADAPTER, SOURCE, Publishing
from tuner.ui.publish_card import card_html, card_markdown, card_problems, retargeted
from tuner.ui.publish_rights import (
    has_login,
    login_name,
    may_use_login,
    person_here,
    run_to_publish,
    runs_to_publish,
    token_for,
)
from tuner.ui.publish_steps import planned_files, pushing_steps
from tuner.ui.publish_view import (
    contents_html,
    facts_html,
    now_and_then,
    place_problems,
    problems_html,
    progress_html,
    pushed_html,
    suggested_repo,
    whom_words,
    zip_link_html,
)
from tuner.ui.services import Services

OFFERED = 50
CHECKING = {"stage": "checking", "done_bytes": 0, "total_bytes": 0}


class Made(TypedDict):
    """A card as it was made, and for which repository; what was edited differs from it."""

    card: str
    repo: str


class PublishEvents:
    """Handlers of the tab."""

    def __init__(self, tab: Publishing, services: Services):
        self.tab, self.services = tab, services

    # Which run, and its card.

    def offer(self, request: gr.Request) -> Any:
        """The runs that kept something and that this person may publish."""
        runs = runs_to_publish(self.services, request, OFFERED)
        return gr.update(choices=[(f"{slug_of(run.id)} · {run.id}", run.id) for run in runs])

    def choose(self, run_id: str | None, request: gr.Request) -> Updates:
        """Show a run's card and contents; edits of another run's card go."""
        tab = self.tab
        try:
            run = run_to_publish(self.services, run_id, request)
            repo = suggested_repo(person_here(request).name, run.id)
            shown = self._card_made(run, repo)
            contents = contents_html(planned_files(run, ADAPTER))
        except TunerError as error:
            return {tab.said: problems_html(error)}
        return {
            **shown,
            **self.show_whom(request),
            tab.repo: repo,
            tab.what: ADAPTER,
            tab.confirm: gr.update(value="", visible=False),
            tab.contents: contents,
            tab.zip_link: zip_link_html(run),
            **dict.fromkeys([tab.repo_problem, tab.revision, tab.facts, tab.said], ""),
            tab.export_said: "",
        }

    def open_run(self, run_id: str, request: gr.Request) -> Updates:
        """Come from a run."""
        name = f"{slug_of(run_id)} · {run_id}"
        chosen = gr.update(value=run_id, choices=[(name, run_id)])
        return {self.tab.who: chosen, **self.choose(run_id, request)}

    def show_card(self, view: str, card: str, run_id: str | None, request: gr.Request) -> Updates:
        """The card as it will look, or its source."""
        tab, as_source = self.tab, view == SOURCE
        shown: Updates = {
            tab.preview: gr.update(visible=not as_source),
            tab.source: gr.update(visible=as_source),
            tab.anew: gr.update(visible=as_source),
        }
        try:
            run = run_to_publish(self.services, run_id, request)
        except TunerError:
            return shown
        return shown if as_source else {**shown, **self._preview(run, card)}

    def write_anew(self, run_id: str | None, repo: str, request: gr.Request) -> Updates:
        """Give up what was edited."""
        try:
            return self._card_made(run_to_publish(self.services, run_id, request), repo.strip())
        except TunerError as error:
            return {self.tab.said: problems_html(error)}

    def show_contents(self, run_id: str | None, what: str, request: gr.Request) -> str:
        """The files that would be sent."""
        try:
            run = run_to_publish(self.services, run_id, request)
            return contents_html(planned_files(run, what))
        except TunerError as error:
            return problems_html(error)

    # Where it goes, and as whom.

    def show_whom(self, request: gr.Request) -> Updates:
        """As whom it would be published, and whether a token can be pasted."""
        login = not in_a_space() and has_login()
        words, asks = whom_words(person_here(request), in_space=in_a_space(), has_login=login)
        return {self.tab.whom: notes([words]), self.tab.token: gr.update(visible=asks)}

    def type_repo(self, repo: str, revision: str) -> Updates:
        """What can be said of a name at once; what the Hub said of the one before goes."""
        problems = place_problems(repo.strip(), revision.strip())
        return {
            self.tab.repo_problem: notes(problems, "problem"),
            self.tab.facts: "",
            self.tab.confirm: gr.update(value="", visible=False),
        }

    def suggest(
        self, run_id: str | None, repo: str, card: str, made: Made | None, request: gr.Request
    ) -> Updates:
        """Put the name of this machine's login into the suggestion, where it is still one."""
        tab = self.tab
        try:
            run = run_to_publish(self.services, run_id, request)
            if repo != suggested_repo(None, run.id) or not may_use_login(request):
                return {tab.facts: gr.skip()}
            better = suggested_repo(login_name(), run.id)
        except TunerError as error:
            return {tab.facts: problems_html(error)}
        return {tab.repo: better, **self._retargeted(run, better, card, made)}

    def check(
        self,
        run_id: str | None,
        repo: str,
        revision: str,
        private: bool,
        token: str,
        card: str,
        made: Made | None,
        request: gr.Request,
    ) -> Updates:
        """Ask the Hub about the target, before anybody presses the button."""
        tab, repo, revision = self.tab, repo.strip(), revision.strip()
        if not run_id or place_problems(repo, revision):
            return {tab.facts: ""}
        if not (in_a_space() or token.strip() or may_use_login(request)):
            return {tab.facts: ""}  # that a token is missing is said above it
        try:
            run = run_to_publish(self.services, run_id, request)
            target = _target(repo, revision, private)
            facts = check_target(target, token_for(token, request))
        except TunerError as error:
            return {tab.facts: problems_html(error), tab.confirm: gr.update(visible=False)}
        return {
            **self._retargeted(run, repo, card, made),
            tab.facts: facts_html(facts, target),
            tab.confirm: gr.update(visible=facts.needs_yes),
        }

    # The button.

    def publish(
        self,
        run_id: str | None,
        repo: str,
        revision: str,
        private: bool,
        token: str,
        card: str,
        made: Made | None,
        what: str,
        confirm: str,
        request: gr.Request,
    ) -> Iterator[Updates]:
        """Check, then send and tell how far; the token's box is emptied when it is done."""
        tab, repo, revision = self.tab, repo.strip(), revision.strip()
        yield self._working(CHECKING)
        facts = target = None
        try:
            run = run_to_publish(self.services, run_id, request)
            if problems := [*place_problems(repo, revision), *card_problems(card)]:
                raise HubError(problems)
            target, used = _target(repo, revision, private, confirm), token_for(token, request)
            facts = check_target(target, used)
            # The name may have been changed so late that the check has not shown its card yet.
            shown = self._retargeted(run, repo, card, made)
            pushing = pushing_steps(run, target, used, shown.get(tab.source, card), what)
            with closing(pushing):
                for step in now_and_then(pushing):
                    yield {**shown, **self._told(step, target)}
        except (TunerError, OSError) as error:
            yield {**self.at_rest(), tab.said: problems_html(error), **self._asked(facts, target)}

    def at_rest(self) -> Updates:
        """The buttons as they are while nothing is sent."""
        return {
            self.tab.publish: gr.update(interactive=True),
            self.tab.cancel: gr.update(visible=False),
        }

    def cancelled(self) -> Updates:
        told = (
            "Cancelled before the Hub confirmed anything. What was sent already is not sent again "
            "when you publish the next time."
        )
        return {**self.at_rest(), self.tab.said: notes([told])}

    def failed(self) -> Updates:
        """What nobody foresaw: the log has it, and the button can be pressed again."""
        told = "Publishing failed in a way that was not foreseen; the app's log says more."
        return {**self.at_rest(), self.tab.said: notes([told], "problem")}

    def _told(self, step: Mapping[str, Any], target: Target) -> Updates:
        if step["kind"] != "pushed":
            return self._working(step)
        return {
            **self.at_rest(),
            self.tab.said: pushed_html(step, private=target.private),
            self.tab.token: gr.update(value=""),
            self.tab.confirm: gr.update(value="", visible=False),
            self.tab.facts: "",
        }

    def _working(self, step: Mapping[str, Any]) -> Updates:
        return {
            self.tab.said: progress_html(step),
            self.tab.publish: gr.update(interactive=False),
            self.tab.cancel: gr.update(visible=True),
        }

    def _asked(self, facts: TargetFacts | None, target: Target | None) -> Updates:
        """The box for the name, where only that was missing."""
        if facts is None or target is None or not facts.needs_yes:
            return {}
        return {
            self.tab.facts: facts_html(facts, target),
            self.tab.confirm: gr.update(visible=True),
        }

    def _card_made(self, run: Run, repo: str) -> Updates:
        from tuner.hub.card import make_card

        card = make_card(run, repo)
        made = Made(card=card, repo=repo)
        return {self.tab.made: made, self.tab.source: card, **self._preview(run, card)}

    def _preview(self, run: Run, card: str) -> Updates:
        return {
            self.tab.card_facts: notes(card_problems(card), "problem") or card_html(card),
            self.tab.card_shown: card_markdown(card, _images(run)),
        }

    def _retargeted(self, run: Run, repo: str, card: str, made: Made | None) -> Updates:
        """The card for another repository: made anew, or as edited with the name changed."""
        if made is None or made["repo"] == repo:
            return {}
        if card == made["card"]:
            return self._card_made(run, repo)
        edited = retargeted(card, made["repo"], repo)
        return {
            self.tab.made: Made(card=made["card"], repo=repo),
            self.tab.source: edited,
            **self._preview(run, edited),
        }


def _target(repo: str, revision: str, private: bool, confirm: str = "") -> Target:
    return Target(repo, private, revision or None, confirm.strip())


def _images(run: Run) -> dict[str, bytes]:
    from tuner.hub.curve_image import curve_png

    curve = curve_png(run)
    return {} if curve is None else {"loss.png": curve}
