"""The form's handlers, called as Gradio calls them."""

import gradio as gr
import pytest

from tests.ui.asking import asked
from tuner.recipe import make_recipe
from tuner.runs.store import RunStore
from tuner.ui import draft
from tuner.ui.draft import DraftBox
from tuner.ui.fine_tune import build_fine_tune
from tuner.ui.form_events import FormEvents
from tuner.ui.form_updates import FIELDS
from tuner.ui.services import Services


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    made = Services.of(RunStore(tmp_path_factory.mktemp("form") / "runs"))
    made.store.root.mkdir()
    yield made
    made.end()


@pytest.fixture(scope="module")
def events(services):
    with gr.Blocks():
        form = build_fine_tune(services)
    return FormEvents(form, services)


@pytest.fixture
def text():
    return draft.first_draft()


def shown_fields(text, **typed):
    """What all fields hold where the text is shown and some were typed in."""
    values = draft.read_draft(text).values
    return [typed.get(field.key.replace(".", "_"), field.shown(values)) for field in FIELDS]


def recipe(text):
    return draft.read_draft(text).recipe


def test_two_fields_typed_before_the_first_answer_came_are_both_kept(events, text):
    box = DraftBox()
    events.set_fields(box, text, *shown_fields(text, learning_rate="1e-3"))
    both = events.set_fields(box, text, *shown_fields(text, learning_rate="1e-3", max_length="256"))
    assert (recipe(both).learning_rate, recipe(both).max_length) == (1e-3, 256)


def test_a_field_typed_while_a_preset_is_on_its_way_does_not_bring_the_old_one_back(events, text):
    box = DraftBox()
    events.choose_preset(box, text, "legal")
    after = events.set_fields(box, text, *shown_fields(text, learning_rate="1e-3"))
    assert recipe(after).preset == "legal" and recipe(after).learning_rate == 1e-3
    assert recipe(after).sample_prompts == recipe(draft.with_preset(text, "legal")).sample_prompts


def test_a_choice_touches_only_the_controls_that_it_changes(events, text):
    shown = events.choose_method(DraftBox(), text, "qlora")
    assert set(shown) == {events.form.recipe, events.form.method}
    assert recipe(shown[events.form.recipe]).quantization == "nf4"


def test_a_restarted_page_goes_on_with_what_the_browser_shows(events, text):
    mine = draft.with_values(text, {"seed": 7})
    changed = events.set_fields(DraftBox(), mine, *shown_fields(mine, max_length="128"))
    assert (recipe(changed).seed, recipe(changed).max_length) == (7, 128)


def test_each_step_of_what_follows_holds_those_before_it_but_for_states(events, text):
    before = set()
    for shown in events.follow(DraftBox(), text, None, asked()):
        assert before <= set(shown)
        before = {part for part in shown if not isinstance(part, gr.State)}
    assert {events.form.summary, events.form.rows, events.form.base_info} <= before


def test_what_follows_is_that_of_the_draft_where_the_browser_is_behind(events, text):
    box = DraftBox()
    newer = box.put(draft.with_values(text, {"learning_rate": 7}))
    first, *_, last = events.follow(box, text, None, asked())
    assert first == {events.form.recipe: newer}
    assert "learning_rate=7" in last[events.form.settings_problem]


def test_start_puts_the_draft_in_line_and_a_refusal_keeps_the_form(events, services, text):
    wrong = draft.with_values(text, {"learning_rate": 7})
    run_id, said = events.start(DraftBox(), wrong, "bot", asked())
    assert run_id == "" and "learning_rate=7" in said
    run_id, _ = events.start(DraftBox(), text, "bot", asked())
    assert services.line() == [run_id]
    assert services.store.get(run_id).recipe() == recipe(text)


def test_an_earlier_run_is_begun_with_and_an_unknown_one_is_a_sentence(events, services, text):
    run = services.store.create(make_recipe({"seed": 5, "dataset": {"source": "a.csv"}}), "old")
    shown = events.begin_with_run(DraftBox(), text, run.id, asked())
    assert recipe(shown[events.form.recipe]).seed == 5
    told = events.begin_with_run(DraftBox(), text, "nobody", asked())
    assert "There is no run" in told[events.form.problems]
