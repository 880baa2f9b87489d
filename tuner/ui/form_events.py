"""
What the Fine-tune tab's controls do: parse, call, show. Each handler is a few lines; what they
call is in draft.py, consequences.py and the engine.

`wire` connects them. A control writes the recipe's text; the text's change event works out all
that follows. Events that write it are not queued: they take a millisecond, and none may overtake
another's typing.
"""

import tempfile
from collections.abc import Callable, Iterator
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
from tuner.ui.base_model_view import base_model_html
from tuner.ui.consequences import ROWS_SHOWN, Consequences, Seen, consequences
from tuner.ui.data_view import (
    ROLES_OF,
    mapping,
    report_html,
    rows_html,
    suggestion_words,
)
from tuner.ui.fields import fields
from tuner.ui.fine_tune import Form
from tuner.ui.markup import element, notes
from tuner.ui.method_view import labels, summary_html
from tuner.ui.services import Services
from tuner.ui.uploads import keep_uploads
from tuner.ui.words import all_in_page_words

Updates = dict[Any, Any]
AT_ONCE: dict[str, Any] = {
    "queue": False,
    "show_progress": "hidden",
    "api_visibility": "private",
    "trigger_mode": "always_last",
}
LONG: dict[str, Any] = AT_ONCE | {"queue": True, "concurrency_limit": 8}
FIELDS = fields()
EARLIER_OFFERED = 50
READ_AS = {"files": "auto", "hub": "hub", "repository": "repository"}


# In the browser: the recipe's text is there already.
SAVE_RECIPE = """(text) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/yaml" }));
  link.download = "recipe.yaml";
  link.click();
  URL.revokeObjectURL(link.href);
}"""
# A download button offers the file that it was given before the click; so it gets one of its own.
CLICK_CLEANED = """() => setTimeout(() => {
  const found = document.querySelector("#tuner-cleaned-file");
  (found.matches("a, button") ? found : found.querySelector("a, button")).click();
}, 200)"""


class FormEvents:
    """Handlers of one form. They keep nothing: all they know comes in with the event."""

    def __init__(self, form: Form, services: Services):
        self.form, self.services = form, services

    # What writes the recipe's text. The text comes first, the control's value after it.

    def choose_preset(self, text: str, name: str) -> str:
        return draft.with_preset(text, name)

    def choose_base_model(self, text: str, name: str | None) -> str:
        if not (name or "").strip():
            return text
        found = self.services.models.find(str(name).strip(), None).base
        return draft.with_base_model(text, str(name).strip(), found.parameters if found else None)

    def choose_method(self, text: str, method: str) -> str:
        return draft.with_method(text, method)

    def set_fields(self, text: str, *shown: Any) -> str:
        values = {field.key: field.read(value) for field, value in zip(FIELDS, shown, strict=True)}
        return draft.with_values(text, values)

    def map_columns(self, text: str, skip_bad_rows: bool, *chosen: list[str]) -> str:
        text = draft.with_values(text, {"dataset.skip_bad_rows": skip_bad_rows})
        return draft.with_columns(text, dict(zip(ROLES, chosen, strict=True)))

    def use_suggestion(self, text: str, suggestion: dict[str, list[str]]) -> str:
        return draft.with_columns(text, suggestion)

    def choose_data_kind(self, text: str, kind: str) -> tuple[Any, ...]:
        """Show what this kind asks for. Data that is there stays until other is given."""
        if kind == "sample":
            text = draft.with_sample_data(text)
        elif draft.data_kind(draft.read_draft(text).values) != kind:
            text = draft.with_data(text, "", READ_AS[kind])
        wanted = self._data_inputs(kind, draft.read_draft(text).values)
        return text, "", *wanted

    def take_files(self, text: str, files: list[str] | None, kind: str) -> tuple[str, str]:
        if not files:
            return draft.with_data(text, "", READ_AS[kind]), ""
        try:
            source = keep_uploads(files, self.services.store.root)
        except DatasetError as error:
            return text, notes(error.problems, "problem")
        return draft.with_data(text, str(source), READ_AS[kind]), ""

    def ask_own_questions(self, text: str, prompts: list[str]) -> tuple[Any, Any]:
        changed = draft.with_own_prompts(text, prompts)
        if changed == text:
            return gr.skip(), gr.skip()
        return changed, "\n".join(prompts)

    def choose_hub_dataset(self, text: str, name: str | None, config: str, split: str) -> str:
        name = (name or "").strip()
        known = _hub_dataset(draft.read_draft(text).values.get("preset"), name)
        settings = {"config": config.strip() or None, "split": split.strip() or "train"}
        return draft.with_data(text, name, "hub", **{**settings, **known})

    def offer_earlier_runs(self) -> Any:
        newest = self.services.store.list()[:EARLIER_OFFERED]
        return gr.update(choices=[(f"{slug_of(run.id)} · {run.id}", run.id) for run in newest])

    def begin_with_run(self, text: str, run_id: str | None) -> tuple[str, str]:
        if not run_id:
            return text, ""
        try:
            return draft.of_recipe(self.services.store.get(run_id).recipe()), ""
        except TunerError as error:
            return text, notes(error.problems, "problem")

    def upload_recipe(self, text: str, path: str) -> tuple[str, str]:
        try:
            given = Path(path).read_text(encoding="utf-8")
            return draft.write_draft(draft.parse_yaml(given)), ""
        except (RecipeError, UnicodeDecodeError) as error:
            return text, notes([f"{Path(path).name} is no recipe: {error}"], "problem")

    # What follows the text.

    def show_controls(self, text: str) -> Updates:
        """Let every control show what the text says. A text that is no YAML changes none."""
        values = draft.read_draft(text).values
        form = self.form
        if not values:
            return {form.preset: gr.skip()}
        preset, kind = values.get("preset"), draft.data_kind(values)
        shown: Updates = {form.fields[field.key]: field.shown(values) for field in FIELDS}
        shown |= {
            form.preset: preset if preset in preset_names() else None,
            form.base_model: values.get("base_model"),
            form.method: draft.method_of(values),
            form.data_kind: kind,
            form.skip_bad_rows: bool(draft.section(values, "dataset").get("skip_bad_rows")),
        }
        inputs = (form.files, form.hub_row, form.hub_id, form.hub_config, form.hub_split)
        return shown | dict(zip(inputs, self._data_inputs(kind, values), strict=True))

    def follow(self, text: str, seen: Seen | None) -> Iterator[Updates]:
        """Show what follows from the text, each step as soon as it is known."""
        for now in consequences(self.services, text, seen):
            yield self._shown(now)

    def turn(self, text: str, first: float | None, by: int) -> tuple[Any, str]:
        """Show other rows: `by` further on, or random ones where `by` is 0."""
        recipe = self.services.read(text).recipe
        if recipe is None:
            return gr.skip(), gr.skip()
        begin = max(1, int(first or 1) + by)
        found = self.services.worker.call(look, recipe, begin if by or first else None, ROWS_SHOWN)
        shown = found["preview"]
        if shown is None:
            return gr.skip(), notes(found["problems"], "problem")
        return (begin if by else gr.skip()), rows_html(shown["examples"])

    def draw(self, text: str) -> str:
        recipe = self.services.require(text)
        shown = self.services.worker.call(look, recipe, None, ROWS_SHOWN)["preview"]
        return rows_html(shown["examples"]) if shown else gr.skip()

    # Files and the start.

    def download_cleaned(self, text: str) -> str:
        recipe = self.services.require(text)
        path = Path(tempfile.mkdtemp(prefix="tuner-cleaned-")) / "cleaned.jsonl"
        self.services.worker.call(write_cleaned, recipe, path)
        return str(path)

    def start(self, text: str, name: str) -> tuple[str, str]:
        """Put a run in line; it begins at once where none is at work."""
        store, called = self.services.store, name.strip() or None
        try:
            recipe = self.services.require(text)
            self.services.worker.call(check_before_start, recipe, store.root, called)
            run = enqueue_document(store, recipe, called)
        except TunerError as error:
            return "", notes(error.problems, "problem")
        self.services.dispatcher.wake()
        return run["run"], ""

    def _data_inputs(self, kind: str, values: dict[str, Any]) -> tuple[Any, ...]:
        """files, hub_row, hub_id, hub_config, hub_split for a kind of data."""
        data = draft.section(values, "dataset")
        hub = kind == "hub"
        preset = values.get("preset")
        offered = load_preset(preset).about.hub_datasets if preset in preset_names() else []
        return (
            gr.update(visible=kind in ("files", "repository")),
            gr.update(visible=hub),
            gr.update(
                choices=[(f"{one.id} · {one.licence}", one.id) for one in offered],
                value=data.get("source") if hub else None,
            ),
            data.get("config") or "" if hub else "",
            data.get("split") or "train" if hub else "train",
        )

    def _shown(self, now: Consequences) -> Updates:
        form, source = self.form, now.draft.source
        updates: Updates = {
            form.base_info: base_model_html(now.lookup) if now.lookup else gr.skip(),
            form.method_problem: notes(now.problems("method"), "problem"),
            form.settings_problem: notes(now.problems("settings"), "problem"),
            form.problems: _state_html(now),
            form.start: gr.update(interactive=now.may_start),
            form.seen: now.seen,
        }
        if now.look:
            updates |= self._data_shown(now)
        elif now.busy or not source:
            words = element("p", f"{now.busy} …", class_="tuner-busy") if now.busy else ""
            updates[form.report] = words or notes(now.problems("data"), "problem")
            updates[form.rows] = ""
            updates[form.rows_bar] = gr.update(visible=False)
        if now.figures and now.draft.recipe:
            seen = now.seen
            updates[form.method] = gr.update(choices=labels(now.figures))
            updates[form.summary] = summary_html(
                now.draft.recipe,
                now.figures,
                seen.sizes if seen else None,
                seen.held_out if seen else 0,
            )
        return updates

    def _data_shown(self, now: Consequences) -> Updates:
        form, found, recipe = self.form, now.look, now.draft.recipe
        assert found is not None and recipe is not None
        shown = found["preview"]
        chosen = mapping(found, recipe.dataset.columns, recipe.objective)
        own = draft.is_own_data(now.draft.values)
        updates: Updates = {
            form.report: report_html(found),
            form.rows: rows_html(shown["examples"]) if shown else "",
            form.rows_bar: gr.update(visible=shown is not None),
            form.first_row: 1,
            form.held_out: found["prompts"],
            form.suggestion: found["suggestion"],
            form.use_suggestion: gr.update(
                value=suggestion_words(found["suggestion"]), visible=bool(found["suggestion"])
            ),
            form.mapping_row: gr.update(visible=own and bool(found["columns"])),
        }
        for role, box in form.mapping.items():
            updates[box] = gr.update(
                choices=found["columns"],
                value=chosen.get(role, []),
                visible=role in ROLES_OF[recipe.objective],
            )
        return updates


def _state_html(now: Consequences) -> str:
    """Beside Start: why it cannot be pressed, or that everything was checked."""
    if problems := now.problems():
        return notes(all_in_page_words(problems), "problem")
    return element("p", "✓ checks passed" if now.done else f"{now.busy or 'Checking'} …")


def _hub_dataset(preset: Any, name: str) -> dict[str, Any]:
    """How a dataset that the preset offers is read; nothing for others."""
    offered = load_preset(preset).about.hub_datasets if preset in preset_names() else []
    known = next((one for one in offered if one.id == name), None)
    return {"config": known.config, "split": known.split, "columns": known.columns} if known else {}


def wire(form: Form, services: Services, page: gr.Blocks) -> FormEvents:
    """Connect the form's components with its handlers."""
    events = FormEvents(form, services)
    _wire_writers(form, events)
    _wire_consequences(form, events, page)
    _wire_files(form, events)
    form.start.click(
        events.start,
        [form.recipe, form.name],
        [form.run_view.run, form.problems],
        **{**LONG, "trigger_mode": "once", "show_progress": "minimal"},
    ).success(None, form.run_view.run, None, js="(run) => { if (run) window.Tuner.open(run); }")
    form.earlier.focus(events.offer_earlier_runs, None, form.earlier, **AT_ONCE)
    return events


def _wire_writers(form: Form, events: FormEvents) -> None:
    shown_by = controls(form)
    hub = [form.hub_id, form.hub_config, form.hub_split]
    form.held_out.change(
        events.ask_own_questions,
        [form.recipe, form.held_out],
        [form.recipe, form.fields["sample_prompts"]],
        **AT_ONCE,
    )

    def whole(trigger: Callable[..., Any], fn: Any, inputs: list[Any], *more: Any) -> None:
        """For what changes more than one setting: every control then shows the new text."""
        trigger(fn, [form.recipe, *inputs], [form.recipe, *more], **LONG).then(
            events.show_controls, form.recipe, shown_by, **AT_ONCE
        )

    whole(form.preset.input, events.choose_preset, [form.preset])
    whole(form.base_model.input, events.choose_base_model, [form.base_model])
    whole(form.method.input, events.choose_method, [form.method])
    whole(form.earlier.input, events.begin_with_run, [form.earlier], form.problems)
    whole(form.recipe_upload.upload, events.upload_recipe, [form.recipe_upload], form.problems)
    form.recipe.input(events.show_controls, form.recipe, shown_by, **AT_ONCE)
    shown = [form.fields[field.key] for field in FIELDS]
    gr.on(
        [component.input for component in shown],
        events.set_fields,
        [form.recipe, *shown],
        form.recipe,
        **AT_ONCE,
    )
    form.data_kind.input(
        events.choose_data_kind,
        [form.recipe, form.data_kind],
        [form.recipe, form.data_problem, form.files, form.hub_row, *hub],
        **AT_ONCE,
    )
    gr.on(
        [form.hub_id.input, form.hub_config.submit, form.hub_split.submit],
        events.choose_hub_dataset,
        [form.recipe, *hub],
        form.recipe,
        **AT_ONCE,
    )
    boxes = [form.mapping[role] for role in ROLES]
    gr.on(
        [box.input for box in (form.skip_bad_rows, *boxes)],
        events.map_columns,
        [form.recipe, form.skip_bad_rows, *boxes],
        form.recipe,
        **AT_ONCE,
    )
    form.use_suggestion.click(
        events.use_suggestion, [form.recipe, form.suggestion], form.recipe, **AT_ONCE
    )


def _wire_consequences(form: Form, events: FormEvents, page: gr.Blocks) -> None:
    followed = [
        form.base_info, form.method_problem, form.settings_problem, form.problems, form.start,
        form.seen, form.held_out, form.report, form.rows, form.rows_bar, form.first_row,
        form.mapping_row, form.suggestion, form.use_suggestion, form.method, form.summary,
        *form.mapping.values(),
    ]  # fmt: skip
    form.recipe.change(events.follow, [form.recipe, form.seen], followed, **LONG)
    kept = gr.BrowserState("", storage_key="tuner-draft", secret="not-a-secret")
    page.load(
        lambda text, stored: stored or text, [form.recipe, kept], form.recipe, **AT_ONCE
    ).then(events.show_controls, form.recipe, controls(form), **AT_ONCE).then(
        events.follow, [form.recipe, form.seen], followed, **LONG
    )
    form.recipe.change(None, form.recipe, kept, js="(text) => text")


def _wire_files(form: Form, events: FormEvents) -> None:
    gr.on(
        [form.files.upload, form.files.delete, form.files.clear],
        events.take_files,
        [form.recipe, form.files, form.data_kind],
        [form.recipe, form.data_problem],
        **LONG,
    )
    rows = [form.first_row, form.rows]
    for button, by in ((form.previous, -ROWS_SHOWN), (form.following, ROWS_SHOWN)):
        button.click(
            lambda text, first, by=by: events.turn(text, first, by),
            [form.recipe, form.first_row],
            rows,
            **LONG,
        )
    form.first_row.submit(
        lambda text, first: events.turn(text, first, 0),
        [form.recipe, form.first_row],
        rows,
        **LONG,
    )
    form.drawn.click(events.draw, form.recipe, form.rows, **LONG)
    form.cleaned.click(events.download_cleaned, form.recipe, form.cleaned_file, **LONG).success(
        None, js=CLICK_CLEANED
    )
    form.recipe_download.click(None, form.recipe, js=SAVE_RECIPE)


def controls(form: Form) -> list[Any]:
    """Everything that shows a part of the recipe's text."""
    return [
        form.preset, form.base_model, form.method, form.data_kind, form.skip_bad_rows, form.files,
        form.hub_row, form.hub_id, form.hub_config, form.hub_split, *form.fields.values(),
    ]  # fmt: skip
