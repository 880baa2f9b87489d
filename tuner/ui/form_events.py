"""
What the Fine-tune tab's controls do: parse, call, show. Each handler is a few lines; what they
call is in draft.py, consequences.py and the engine, what comes of it on screen in form_updates.py.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from tuner.checks import check_before_start
from tuner.data.columns import ROLES
from tuner.errors import DatasetError, RecipeError, TunerError
from tuner.presets import load_preset, preset_names
from tuner.runs.names import slug_of
from tuner.service.previewing import look, write_cleaned
from tuner.service.run_documents import enqueue_document
from tuner.ui import draft
from tuner.ui.consequences import ROWS_SHOWN, Seen, consequences
from tuner.ui.data_view import rows_html
from tuner.ui.fine_tune import Form
from tuner.ui.form_updates import (
    FIELDS,
    Updates,
    consequences_shown,
    controls_shown,
    data_inputs_shown,
    unchanged,
)
from tuner.ui.markup import notes
from tuner.ui.services import Services
from tuner.ui.uploads import keep_uploads
from tuner.ui.words import all_in_page_words

EARLIER_OFFERED = 50
READ_AS = {"files": "auto", "hub": "hub", "repository": "repository"}


class FormEvents:
    """Handlers of one form. They keep nothing: all they know comes in with the event."""

    def __init__(self, form: Form, services: Services):
        self.form, self.services = form, services

    # Choices that change several settings. The text comes first, the control's value after it.

    def choose_preset(self, text: str, name: str) -> Updates:
        return self._written(draft.with_preset(text, name))

    def choose_base_model(self, text: str, name: str | None) -> Updates:
        name = (name or "").strip()
        if not name:
            return unchanged(self.form.recipe)
        found = self.services.models.find(name, None).base
        return self._written(draft.with_base_model(text, name, found.parameters if found else None))

    def choose_method(self, text: str, method: str) -> Updates:
        return self._written(draft.with_method(text, method))

    def begin_with_run(self, text: str, run_id: str | None) -> Updates:
        if not run_id:
            return unchanged(self.form.recipe)
        try:
            return self._written(draft.of_recipe(self.services.store.get(run_id).recipe()))
        except TunerError as error:
            return {self.form.problems: notes(error.problems, "problem")}

    def upload_recipe(self, text: str, path: str) -> Updates:
        try:
            given = Path(path).read_text(encoding="utf-8")
            return self._written(draft.write_draft(draft.parse_yaml(given)))
        except (RecipeError, UnicodeDecodeError) as error:
            sentence = f"{Path(path).name} is no recipe: {error}"
            return {self.form.problems: notes([sentence], "problem")}

    def offer_earlier_runs(self) -> Any:
        newest = self.services.store.list()[:EARLIER_OFFERED]
        return gr.update(choices=[(f"{slug_of(run.id)} · {run.id}", run.id) for run in newest])

    def restore(self, text: str, kept: str) -> Updates:
        """Begin with the draft that this browser kept."""
        return self._written(kept or text)

    # Settings, and what says which data.

    def set_fields(self, text: str, *shown: Any) -> str:
        """Write the fields that show something else than the text says."""
        values = draft.read_draft(text).values
        pairs = list(zip(FIELDS, shown, strict=True))
        changed = {field.key: field.read(now) for field, now in pairs if now != field.shown(values)}
        return draft.with_values(text, changed)

    def choose_data_kind(self, text: str, kind: str) -> Updates:
        """Show what this kind asks for. Data that is there stays until other is given."""
        if kind == "sample":
            text = draft.with_sample_data(text)
        elif draft.data_kind(draft.read_draft(text).values) != kind:
            text = draft.with_data(text, "", READ_AS[kind])
        form, values = self.form, draft.read_draft(text).values
        return {
            form.recipe: text,
            form.data_problem: "",
            **data_inputs_shown(form, kind, values),
        }

    def take_files(self, text: str, files: list[str] | None, kind: str) -> tuple[str, str]:
        if not files:
            return draft.with_data(text, "", READ_AS[kind]), ""
        try:
            source = keep_uploads(files, self.services.store.root)
        except DatasetError as error:
            return text, notes(error.problems, "problem")
        return draft.with_data(text, str(source), READ_AS[kind]), ""

    def choose_hub_dataset(self, text: str, name: str | None, config: str, split: str) -> str:
        name = (name or "").strip()
        known = _hub_dataset(draft.read_draft(text).values.get("preset"), name)
        settings = {"config": config.strip() or None, "split": split.strip() or "train"}
        return draft.with_data(text, name, "hub", **{**settings, **known})

    def map_columns(self, text: str, skip_bad_rows: bool, *chosen: list[str]) -> str:
        text = draft.with_values(text, {"dataset.skip_bad_rows": skip_bad_rows})
        return draft.with_columns(text, dict(zip(ROLES, chosen, strict=True)))

    def use_suggestion(self, text: str, suggestion: dict[str, list[str]]) -> str:
        return draft.with_columns(text, suggestion)

    def ask_own_questions(self, text: str, prompts: list[str]) -> Updates:
        changed = draft.with_own_prompts(text, prompts)
        if changed == text:
            return unchanged(self.form.recipe)
        box = self.form.fields["sample_prompts"]
        return {self.form.recipe: changed, box: controls_shown(self.form, changed)[box]}

    # What follows the text.

    def show_controls(self, text: str) -> Updates:
        return controls_shown(self.form, text)

    def follow(self, text: str, seen: Seen | None) -> Iterator[Updates]:
        """Show what follows from the text, each step as soon as it is known."""
        for now in consequences(self.services, text, seen):
            yield consequences_shown(self.form, now)

    def turn(self, text: str, first: float | None, by: int) -> Updates:
        """Show the rows `by` further on; with 0, those from the number that was typed."""
        recipe, begin = self.services.read(text).recipe, max(1, int(first or 1) + by)
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

    def draw(self, text: str) -> Any:
        """Show rows drawn at random."""
        recipe = self.services.read(text).recipe
        if recipe is None:
            return gr.skip()
        shown = self.services.worker.call(look, recipe, None, ROWS_SHOWN)["preview"]
        return rows_html(shown["examples"]) if shown else gr.skip()

    # Files and the start.

    def write_cleaned(self, text: str) -> str:
        """The kept rows as a file."""
        path = self.services.scratch_file("cleaned.jsonl")
        try:
            self.services.worker.call(write_cleaned, self.services.require(text), path)
        except TunerError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return str(path)

    def start(self, text: str, name: str) -> tuple[str, str]:
        """Put a run in line; it begins at once where none is at work."""
        store, called = self.services.store, name.strip() or None
        try:
            recipe = self.services.require(text)
            self.services.worker.call(check_before_start, recipe, store.root, called)
            run = enqueue_document(store, recipe, called)
        except TunerError as error:
            return "", notes(all_in_page_words(error.problems), "problem")
        self.services.dispatcher.wake()
        return run["run"], ""

    def _written(self, text: str) -> Updates:
        return {self.form.recipe: text, **controls_shown(self.form, text)}


def _hub_dataset(preset: Any, name: str) -> dict[str, Any]:
    """How a dataset that the preset offers is read; nothing for others."""
    offered = load_preset(preset).about.hub_datasets if preset in preset_names() else []
    known = next((one for one in offered if one.id == name), None)
    return {"config": known.config, "split": known.split, "columns": known.columns} if known else {}
