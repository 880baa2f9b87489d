"""
What the Fine-tune tab's controls do: parse, call, show. Each handler is a few lines; what they
call is in draft.py, consequences.py and the engine, what comes of it on screen in form_updates.py.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from tuner.data.columns import ROLES
from tuner.errors import DatasetError, RecipeError, TunerError
from tuner.presets import load_preset, preset_names
from tuner.recipe import Recipe
from tuner.runs.names import slug_of
from tuner.service.previewing import look, write_cleaned
from tuner.ui import draft
from tuner.ui.consequences import ROWS_SHOWN, Seen, consequences
from tuner.ui.data_view import rows_html
from tuner.ui.draft import DraftBox
from tuner.ui.fine_tune import Form
from tuner.ui.form_updates import (
    CHECKED,
    FIELDS,
    Updates,
    consequences_shown,
    controls_shown,
    data_inputs_shown,
    unchanged,
)
from tuner.ui.markup import notes
from tuner.ui.services import Services
from tuner.ui.words import all_in_page_words

EARLIER_OFFERED = 50
READ_AS = {"files": "auto", "hub": "hub", "repository": "repository"}


class FormEvents:
    """Handlers of one form.

    They keep nothing: an event brings the page's draft, as the server knows it (`box`) and as the
    browser shows it (`text`), then the value of the control.
    """

    def __init__(self, form: Form, services: Services):
        self.form, self.services = form, services

    # Choices that change several settings.

    def choose_preset(self, box: DraftBox, text: str, name: str) -> Updates:
        return self._written(text, box.change(text, lambda now: draft.with_preset(now, name)))

    def choose_base_model(
        self, box: DraftBox, text: str, name: str | None, request: gr.Request
    ) -> Updates:
        name = (name or "").strip()
        if not name:
            return unchanged(self.form.recipe)
        size = self._parameters(name, request)
        return self._written(
            text, box.change(text, lambda now: draft.with_base_model(now, name, size))
        )

    def choose_method(self, box: DraftBox, text: str, method: str) -> Updates:
        return self._written(text, box.change(text, lambda now: draft.with_method(now, method)))

    def begin_with_run(
        self, box: DraftBox, text: str, run_id: str | None, request: gr.Request
    ) -> Updates:
        if not run_id:
            return unchanged(self.form.recipe)
        try:
            begun = draft.of_recipe(self.services.visit(request).run(run_id).recipe())
        except TunerError as error:
            return {self.form.problems: notes(error.problems, "problem")}
        return self._written(text, box.put(begun))

    def upload_recipe(self, box: DraftBox, text: str, path: str) -> Updates:
        try:
            given = draft.parse_yaml(Path(path).read_text(encoding="utf-8"))
        except (RecipeError, UnicodeDecodeError) as error:
            sentence = f"{Path(path).name} is no recipe: {error}"
            return {self.form.problems: notes([sentence], "problem")}
        return self._written(text, box.put(draft.write_draft(given)))

    def offer_earlier_runs(self, request: gr.Request) -> Any:
        newest = self.services.visit(request).runs()[:EARLIER_OFFERED]
        return gr.update(choices=[(f"{slug_of(run.id)} · {run.id}", run.id) for run in newest])

    def restore(self, box: DraftBox, text: str) -> Updates:
        """Begin with the draft that this browser kept, or with the first."""
        return self._written("", box.put(text))

    # Settings, and what says which data.

    def type_recipe(self, box: DraftBox, text: str) -> Updates:
        return controls_shown(self.form, box.put(text))

    def set_fields(self, box: DraftBox, text: str, *shown: Any) -> str:
        """Write the fields that show something else than the text beside them says."""
        values = draft.read_draft(text).values
        pairs = list(zip(FIELDS, shown, strict=True))
        changed = {field.key: field.read(now) for field, now in pairs if now != field.shown(values)}
        return box.change(text, lambda now: draft.with_values(now, changed))

    def choose_data_kind(self, box: DraftBox, text: str, kind: str) -> Updates:
        """Show what this kind asks for. Data that is there stays until other is given."""
        text = box.change(text, lambda now: _of_kind(now, kind))
        form, values = self.form, draft.read_draft(text).values
        return {form.recipe: text, form.data_problem: "", **data_inputs_shown(form, kind, values)}

    def take_files(
        self,
        box: DraftBox,
        text: str,
        files: list[str] | None,
        kind: str,
        request: gr.Request,
    ) -> tuple[Any, str]:
        if not files:
            return self._data(box, text, "", kind), ""
        try:
            source = self.services.visit(request).keep_uploads(files)
        except DatasetError as error:
            return gr.skip(), notes(error.problems, "problem")
        return self._data(box, text, str(source), kind), ""

    def choose_hub_dataset(
        self, box: DraftBox, text: str, name: str | None, config: str, split: str
    ) -> str:
        name = (name or "").strip()
        known = _hub_dataset(draft.read_draft(text).values.get("preset"), name)
        settings = {"config": config.strip() or None, "split": split.strip() or "train"}
        return self._data(box, text, name, "hub", **{**settings, **known})

    def map_columns(self, box: DraftBox, text: str, skip_bad_rows: bool, *chosen: list[str]) -> str:
        columns = dict(zip(ROLES, chosen, strict=True))
        settings = {"dataset.skip_bad_rows": skip_bad_rows}
        return box.change(
            text, lambda now: draft.with_columns(draft.with_values(now, settings), columns)
        )

    def use_suggestion(self, box: DraftBox, text: str, suggestion: dict[str, list[str]]) -> str:
        return box.change(text, lambda now: draft.with_columns(now, suggestion))

    def ask_own_questions(self, box: DraftBox, text: str, prompts: list[str]) -> Updates:
        before = box.now(text)  # not the browser's: a field that is typed in must not be taken back
        changed = box.change(text, lambda now: draft.with_own_prompts(now, prompts))
        if changed == before:
            return unchanged(self.form.recipe)
        shown = self.form.fields["sample_prompts"]
        return {self.form.recipe: changed, shown: controls_shown(self.form, changed)[shown]}

    # What follows the text.

    def follow(
        self, box: DraftBox, text: str, seen: Seen | None, request: gr.Request
    ) -> Iterator[Updates]:
        """Show what follows from the draft, each step as soon as it is known."""
        draft_now = box.now(text)
        if draft_now != text:  # answers that came in another order than they were made
            yield {self.form.recipe: draft_now}
        # Each step repeats those before it: Gradio sends differences, and applies one to the very
        # object that the browser may not have shown yet, so what a step took back would be lost.
        # States stay on the server, where a repetition counts as a change.
        shown: Updates = {}
        for now in consequences(self.services.visit(request), draft_now, seen):
            shown = {part: new for part, new in shown.items() if not isinstance(part, gr.State)}
            shown |= consequences_shown(self.form, now)
            yield shown

    def turn(self, text: str, first: float | None, request: gr.Request, by: int) -> Updates:
        """Show the rows `by` further on; with 0, those from the number that was typed."""
        recipe = self.services.visit(request).read(text).recipe
        begin = max(1, int(first or 1) + by)
        if recipe is None:
            return unchanged(self.form.rows)
        found = self.services.worker.call(look, recipe, begin, ROWS_SHOWN)
        shown = found["preview"]
        if shown is None:  # there is no such row: the number stays
            said = notes(all_in_page_words(found["problems"]), "problem")
            return {self.form.data_problem: said}
        return {
            self.form.first_row: begin,
            self.form.rows: rows_html(shown["examples"]),
            self.form.data_problem: "",
        }

    def draw(self, text: str, request: gr.Request) -> Any:
        """Show rows drawn at random."""
        recipe = self.services.visit(request).read(text).recipe
        if recipe is None:
            return gr.skip()
        shown = self.services.worker.call(look, recipe, None, ROWS_SHOWN)["preview"]
        return rows_html(shown["examples"]) if shown else gr.skip()

    # Files and the start.

    def write_cleaned(self, text: str, request: gr.Request) -> str:
        """The kept rows as a file."""
        path = self.services.scratch_file("cleaned.jsonl")
        try:
            recipe = self.services.visit(request).require(text)
            self.services.worker.call(write_cleaned, recipe, path)
        except TunerError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return str(path)

    def start(self, box: DraftBox, text: str, name: str, request: gr.Request) -> tuple[str, str]:
        """Put a run in line; it begins at once where none is at work."""
        visit = self.services.visit(request)
        try:
            run = visit.start(visit.require(box.now(text)), name.strip() or None)
        except TunerError as error:
            return "", notes(all_in_page_words(error.problems), "problem")
        return run["run"], CHECKED

    def _parameters(self, name: str, request: gr.Request) -> int | None:
        """How large a base model is, where that is known and may be asked by this person."""
        visit = self.services.visit(request)
        if visit.problems(Recipe(base_model=name)):
            return None
        found = self.services.models.find(name, None).base
        return found.parameters if found else None

    def _data(self, box: DraftBox, text: str, source: str, kind: str, **settings: Any) -> str:
        return box.change(
            text, lambda now: draft.with_data(now, source, READ_AS.get(kind, "auto"), **settings)
        )

    def _written(self, before: str, text: str) -> Updates:
        """Show a draft: of the controls those that it changes, as others may be in use."""
        old = controls_shown(self.form, before)
        shown = {
            control: value
            for control, value in controls_shown(self.form, text).items()
            if control not in old or old[control] != value
        }
        return {self.form.recipe: text, **shown}


def _of_kind(text: str, kind: str) -> str:
    if kind == "sample":
        return draft.with_sample_data(text)
    if draft.data_kind(draft.read_draft(text).values) == kind:
        return text
    return draft.with_data(text, "", READ_AS.get(kind, "auto"))


def _hub_dataset(preset: Any, name: str) -> dict[str, Any]:
    """How a dataset that the preset offers is read; nothing for others."""
    offered = load_preset(preset).about.hub_datasets if preset in preset_names() else []
    known = next((one for one in offered if one.id == name), None)
    return {"config": known.config, "split": known.split, "columns": known.columns} if known else {}
