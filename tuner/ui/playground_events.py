"""
What the Playground tab's controls do: parse, ask the engine, show.

The conversation is what the panes hold in the browser; only who stands where in a blind comparison
is kept here, as it must not be told.
"""

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gradio as gr

from tuner.chat.lineup import (
    Lineup,
    base_lineup,
    checkpoint_voices,
    default_sampling,
    joined,
    lineup_of_run,
)
from tuner.chat.protocol import PieceMessage
from tuner.chat.voices import Sampling
from tuner.chat.votes import add_vote, read_votes, tally
from tuner.errors import RunError, TunerError
from tuner.recipe import Recipe
from tuner.runs.names import slug_of
from tuner.runs.run import Run
from tuner.ui.chat_view import (
    BLIND_NAMES,
    Message,
    as_json,
    as_markdown,
    changed_html,
    figures_html,
    held_out_row,
    make_sampling,
    messages_of,
    rows_to_ask,
    shuffled,
    tally_html,
    with_turn,
    without_last_turn,
)
from tuner.ui.form_updates import Updates, unchanged
from tuner.ui.markup import element, notes
from tuner.ui.playground import MOST_PANES, SAMPLING_FIELDS, Playground
from tuner.ui.services import Services
from tuner.ui.visit import Visit

BASE_ONLY = "base:"  # before a base model's name: it answers alone
STEP = "@"  # between a run's id and a checkpoint's step
SHOWN_SECONDS = 0.08
OFFERED = 50


class PlaygroundEvents:
    """Handlers of the tab."""

    def __init__(self, play: Playground, services: Services):
        self.play, self.services = play, services

    # Who answers.

    def offer(self, request: gr.Request) -> Any:
        """The runs that can answer, and the built-in base alone."""
        runs = [run for run in self._runs(request) if _can_answer(run)]
        named = [(f"{slug_of(run.id)} · {run.id}", run.id) for run in runs]
        return gr.update(choices=[*named, ("The practice model alone", f"{BASE_ONLY}starter")])

    def choose(self, who: str | None, request: gr.Request) -> Updates:
        """Show the panes of who was chosen, with what it was trained with."""
        play = self.play
        try:
            lineup = self._lineup(who, [], request)
        except TunerError as error:
            return {play.said: notes(error.problems, "problem")}
        usual = vars(default_sampling(lineup.base))
        return {
            play.said: "",
            play.more: gr.update(choices=self._others(who, request), value=[]),
            play.votes: gr.update(visible=False),  # they were about somebody else
            play.system_prompt: lineup.system_prompt or "",
            play.try_prompt: gr.update(choices=list(lineup.prompts), value=None),
            **{play.sampling[name]: usual[name] for name in SAMPLING_FIELDS},
            **self._panes_shown([voice.name for voice in lineup.voices]),
            **self._tally_shown(who, request),
        }

    def change_panes(
        self, who: str | None, more: list[str], blind: bool, request: gr.Request
    ) -> Updates:
        """More voices, or a blind comparison of two."""
        try:
            lineup = self._lineup(who, [] if blind else more, request)
        except TunerError as error:
            return {self.play.said: notes(error.problems, "problem")}
        names = [voice.name for voice in lineup.voices]
        hidden = blind and len(names) > 1
        return {
            self.play.said: "",
            self.play.votes: gr.update(visible=False),
            **self._panes_shown(list(BLIND_NAMES) if hidden else names),
        }

    # Questions and answers.

    # The request comes before the rest: Gradio puts nothing among what has no name.
    def ask(
        self,
        prompt: str,
        who: str | None,
        more: list[str],
        blind: bool,
        request: gr.Request,
        *given: Any,
    ) -> Iterator[Updates]:
        """Let all voices answer at once, each in its pane, token by token."""
        play = self.play
        if not prompt.strip():
            yield unchanged(play.said)
            return
        try:
            lineup = self._lineup(who, [] if blind else more, request)
            panes, settings = given[:MOST_PANES], given[MOST_PANES:]
            system_prompt, sampling = settings[0], self._sampling(settings[1:])
            blind = blind and len(lineup.voices) > 1
            order = shuffled(lineup.voices) if blind else list(range(len(lineup.voices)))
            voices = [lineup.voices[at] for at in order]
            histories = [[] if blind else messages_of(pane) for pane in panes[: len(voices)]]
            rows = rows_to_ask(voices, histories, prompt, system_prompt, sampling)
            self.services.visit(request).count_question(sampling)
            yield {play.prompt: "", play.said: _waiting(self.services), play.changed_shown: ""}
            with closing(self.services.chat.generate(lineup.base, rows)) as pieces:
                yield from self._streamed(pieces, histories, prompt)
        except TunerError as error:
            # The question comes back, so that nothing typed is lost.
            yield {play.said: notes(error.problems, "problem"), play.prompt: prompt}
            return
        yield {play.order: order if blind else [], play.votes: gr.update(visible=blind)}

    def ask_again(
        self, who: str | None, more: list[str], blind: bool, request: gr.Request, *given: Any
    ) -> Iterator[Updates]:
        """Ask the last question anew, in its place."""
        before = [without_last_turn(messages_of(pane)) for pane in given[:MOST_PANES]]
        prompt = next((asked for _, asked in before if asked), "")
        panes = [history for history, _ in before]
        yield from self.ask(prompt, who, more, blind, request, *panes, *given[MOST_PANES:])

    def edit(self, *panes: Any) -> Updates:
        """Take the last question back into the box, and its answers away."""
        before = [without_last_turn(messages_of(pane)) for pane in panes]
        prompt = next((asked for _, asked in before if asked), "")
        if not prompt:
            return unchanged(self.play.prompt)
        shown: Updates = {self.play.prompt: prompt, self.play.votes: gr.update(visible=False)}
        for pane, (history, _) in zip(self.play.panes, before, strict=True):
            shown |= {pane.chat: history, pane.figures: ""}
        return shown

    def clear(self) -> Updates:
        play = self.play
        emptied: Updates = {pane.chat: [] for pane in play.panes}
        emptied |= {pane.figures: "" for pane in play.panes}
        return emptied | {
            play.reference: "",
            play.changed_shown: "",
            play.said: "",
            play.votes: gr.update(visible=False),
        }

    def take_held_out(self, who: str | None, request: gr.Request) -> Updates:
        """Put a row that did not train into the question, and show the answer it has."""
        try:
            # A run that is shown to others does not show them its data.
            found = held_out_row(self.services.visit(request).own_run(who).data_dir)
        except RunError:
            found = None
        if found is None:
            told = "There is no held-out row of one question and one answer. Choose a run."
            return {self.play.reference: notes([told])}
        shown = element("p", "The answer that this row has:", class_="tuner-numbers")
        return {
            self.play.prompt: found["prompt"],
            self.play.reference: shown + element("blockquote", found["reference"]),
        }

    def vote(
        self,
        winner: str,
        who: str | None,
        order: list[int],
        left: Any,
        right: Any,
        request: gr.Request,
    ) -> Updates:
        """Keep a vote, and only then say who was who."""
        play, sides = self.play, (messages_of(left), messages_of(right))
        visit = self.services.visit(request)
        try:
            voices = self._lineup(who, [], request).voices
            names = [voices[at].name for at in order]
            prompt = without_last_turn(sides[0])[1]
            answers = [side[-1]["content"] for side in sides]
            add_vote(
                visit.run(who),
                prompt=prompt,
                answers=(answers[0], answers[1]),
                voices=(names[0], names[1]),
                winner=winner,
                voter=visit.voter,
            )
        except (TunerError, IndexError) as error:
            problems = getattr(error, "problems", ["Ask a question before you vote."])
            return {play.said: notes(problems, "problem")}
        told = element("p", f"A was {names[0]}, B was {names[1]}.", class_="tuner-numbers")
        return {
            play.said: told,
            play.votes: gr.update(visible=False),
            **self._panes_shown(names),
            **self._tally_shown(who, request),
        }

    def what_changed(
        self, who: str | None, system_prompt: str, tuned: Any, request: gr.Request
    ) -> Updates:
        """The tuned model's last answer, by how much likelier it found it than the base."""
        history = messages_of(tuned)
        before, asked = without_last_turn(history)
        shown = self.play.changed_shown
        if not asked or history[-1]["role"] != "assistant":
            return {shown: notes(["Ask a question first; then the tuned answer is coloured."])}
        system = [{"role": "system", "content": system_prompt}] if system_prompt.strip() else []
        messages = [*system, *before, {"role": "user", "content": asked}]
        try:
            lineup = self._lineup(who, [], request)
            self.services.visit(request).count_question()
            base, voice = lineup.voices[0], lineup.voices[-1]
            scores = self.services.chat.score(
                lineup.base, messages, history[-1]["content"], [base, voice]
            )
        except TunerError as error:
            return {shown: notes(error.problems, "problem")}
        first, second = scores["logprobs"]
        differences = [b - a for a, b in zip(first, second, strict=True)]
        return {shown: changed_html(scores["texts"], differences, voice.name)}

    def save(
        self, kind: str, who: str | None, more: list[str], request: gr.Request, *given: Any
    ) -> str:
        """The conversation as a file."""
        try:
            names = [voice.name for voice in self._lineup(who, more, request).voices]
            settings = vars(self._sampling(given[MOST_PANES + 1 :]))
        except TunerError as error:
            raise gr.Error(str(error), print_exception=False) from None
        panes = [messages_of(pane) for pane in given[: len(names)]]
        text = as_markdown(names, panes) if kind == "md" else as_json(names, panes, settings)
        path = self.services.scratch_file(f"conversation.{kind}")
        path.write_text(text, encoding="utf-8")
        return str(path)

    def unload(self, request: gr.Request) -> str:
        try:
            self.services.visit(request).require_owner()
        except TunerError as error:
            return notes(error.problems, "problem")
        self.services.chat.unload()
        return element("p", "The model is out of memory. The next question loads it again.")

    def open_run(self, run_id: str, request: gr.Request) -> Updates:
        """Come from a run: it answers."""
        chosen = self.choose(run_id, request)
        return {self.play.who: gr.update(value=run_id), **self.clear(), **chosen}

    def open_base(self, base_model: str, request: gr.Request) -> Updates:
        """Come from the form: the base answers alone, to see whether it needs tuning at all."""
        return self.open_run(f"{BASE_ONLY}{base_model}", request)

    def _streamed(
        self, pieces: Iterator[PieceMessage], histories: list[list[Message]], prompt: str
    ) -> Iterator[Updates]:
        texts, latest = ["" for _ in histories], dict[int, PieceMessage]()
        shown_at = 0.0
        for piece in pieces:
            texts[piece["row"]] += piece["text"]
            latest[piece["row"]] = piece
            if time.monotonic() - shown_at >= SHOWN_SECONDS:
                shown_at = time.monotonic()
                yield self._answers_shown(histories, prompt, texts, latest)
        yield self._answers_shown(histories, prompt, texts, latest)

    def _answers_shown(
        self,
        histories: list[list[Message]],
        prompt: str,
        texts: list[str],
        latest: dict[int, PieceMessage],
    ) -> Updates:
        panes, shown = self.play.panes, Updates()
        shown[self.play.said] = ""
        for at, (history, text) in enumerate(zip(histories, texts, strict=True)):
            shown[panes[at].chat] = with_turn(history, prompt, text)
            if at in latest:
                shown[panes[at].figures] = figures_html(latest[at])
        return shown

    def _runs(self, request: gr.Request) -> list[Run]:
        return self.services.visit(request).runs()[:OFFERED]

    def _lineup(self, who: str | None, more: list[str], request: gr.Request) -> Lineup:
        if not who:
            raise RunError("Nobody answers yet. Choose a run under “Who answers”.")
        visit = self.services.visit(request)
        if who.startswith(BASE_ONLY):
            recipe = Recipe(base_model=who.removeprefix(BASE_ONLY))
            if refused := visit.problems(recipe):
                raise RunError(refused)
            return base_lineup(recipe)
        first = visit.lineup(who)
        more = more[: MOST_PANES - len(first.voices)]
        return joined([first, *(_another(visit, name) for name in more)]) if more else first

    def _others(self, who: str | None, request: gr.Request) -> list[tuple[str, str]]:
        """Checkpoints of this run, and other runs on its base."""
        try:
            run = self.services.visit(request).run(who)
            base = run.recipe().base_model
        except (TunerError, OSError):
            return []
        steps = [(voice.name, f"{run.id}{STEP}{step}") for step, voice in checkpoint_voices(run)]
        runs = [
            (f"{slug_of(other.id)} · {other.id}", other.id)
            for other in self._runs(request)
            if other.id != run.id and _can_answer(other) and _base_of(other) == base
        ]
        return [*steps, *runs]

    def _panes_shown(self, names: list[str]) -> Updates:
        shown: Updates = {}
        for at, pane in enumerate(self.play.panes):
            is_there = at < len(names)
            kind = "base" if is_there and names[at] == "base" else "tuned"
            title = element("h3", names[at], class_=f"tuner-voice-{kind}") if is_there else ""
            shown |= {pane.column: gr.update(visible=is_there), pane.title: title}
        return shown

    def _tally_shown(self, who: str | None, request: gr.Request) -> Updates:
        try:
            run = self.services.visit(request).run(who)
            voices = lineup_of_run(run).voices
        except TunerError:
            return {self.play.tally: ""}
        counted = tally(read_votes(run), voices[-1].name, voices[0].name)
        return {self.play.tally: tally_html(counted, voices[-1].name)}

    def _sampling(self, given: tuple[Any, ...]) -> Sampling:
        *numbers, stop = given
        lines = [line for line in (stop or "").splitlines() if line.strip()]
        values = dict(zip(SAMPLING_FIELDS, numbers, strict=True))
        return make_sampling({**values, "stop": tuple(lines)})


def _another(visit: Visit, name: str) -> Lineup:
    """A further voice: a run's id, or one of its checkpoints."""
    run_id, _, step = name.partition(STEP)
    run = visit.run(run_id)
    if not step:
        return lineup_of_run(run)
    found = lineup_of_run(run, (_step(step),))
    only = [voice for voice in found.voices if voice.name.endswith(f"step {step}")]
    return Lineup(found.base, (found.voices[0], *only))


def _step(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise RunError(f"{text[:40]} is no checkpoint's step. Choose one of the list.")
    return int(text)


def _waiting(services: Services) -> str:
    """What is being waited for, where that takes seconds."""
    if services.chat.is_loaded():
        return ""
    return element("p", "Loading the model …", class_="tuner-busy")


def _can_answer(run: Any) -> bool:
    return bool(run.adapter_dir.is_dir() or run.model_dir.is_dir() or run.last_checkpoint())


def _base_of(run: Any) -> str | None:
    try:
        return str(run.recipe().base_model)
    except (TunerError, OSError):
        return None
