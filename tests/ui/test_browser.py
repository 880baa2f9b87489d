"""
The page as a person uses it: Chromium, a real app process, real training on the built-in model.

    make test ARGS="tests/ui/test_browser.py"

About three minutes on two busy cores. Runs that are only looked at are written, not trained.
"""

import io
import json
import os
import re
import signal
import time
import zipfile
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from tests.ui.browser import DESKTOP, NOT_REACHED, PHONE, TRAIN_LINE, chromium, until, visiting
from tests.ui.page_measures import faint_texts, nameless_controls, too_wide
from tests.ui.pages import Page
from tests.ui.telling import metric
from tuner.presets import load_preset
from tuner.recipe import make_recipe
from tuner.runs.events import EventWriter

ROWS = 60
STEPS = 40
QUESTION, REPLY = "what they wrote", "our reply"
SAMPLES = ["Where is parcel 7?"]
FIELD = "#tuner-learning_rate textarea"
HEADS = "#tuner-rows article h4"


@pytest.fixture(scope="module")
def browser():
    with chromium(keeps_files=True) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """An app of its own: these tests kill it, and fill its list."""
    with Page(tmp_path_factory.mktemp("browser") / "runs") as page:
        yield page


@pytest.fixture
def visit(browser, page):
    with visiting(browser, page.url) as visit:
        yield visit


@pytest.fixture(scope="module")
def two_runs(page):
    """Two completed runs that differ in rank and learning rate."""
    return [
        written_run(page.store, "first", learning_rate=1e-3, lora={"r": 8}),
        written_run(page.store, "second", learning_rate=7e-4, lora={"r": 4}),
    ]


def written_run(store, name, **settings):
    """A run as a training would have left it."""
    run = store.create(make_recipe({**load_preset("chatbot").values, **settings}), name)
    with EventWriter(run.events_path) as events:
        events.write("eval", step=0, eval_loss=4.0)
        for step in range(1, 31):
            metric(events, step, max_steps=30)
        events.write("eval", step=30, eval_loss=1.5)
        for step in (0, 30):
            events.write("sample", step=step, index=0, prompt="Hello?", text=f"Answer at {step}.")
        events.write("warning", message="A warning that a training gave.")
    now = time.time()
    run.write_result({"eval_loss": 1.5, "base_eval_loss": 4.0, "steps": 30})
    run.update_status(
        state="completed", step=30, max_steps=30, started=now - 60, finished=now, waiting_since=None
    )
    return run


def odd_csv(folder):
    """Questions and replies under names that tell nothing."""
    lines = [f'"Where is parcel {n}?","Parcel {n} is on its way to you.",en' for n in range(ROWS)]
    path = folder / "odd.csv"
    path.write_text("\n".join([f"{QUESTION},{REPLY},lang", *lines]), encoding="utf-8")
    return path


def give_odd_csv(visit, folder):
    """Upload it, and wait until the page asks which column is which."""
    visit.choose_data("Your files")
    visit.upload(odd_csv(folder))
    visit.is_refused("its columns are not recognised")


def ids_listed(visit):
    return visit.find("tr.tuner-row").evaluate_all("rows => rows.map(row => row.dataset.run)")


@contextmanager
def held(run):
    """Let a run's process stand still: on a fast machine it would be done before we have looked."""
    group = os.getpgid(run.status()["pid"])
    os.killpg(group, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(group, signal.SIGCONT)


# The whole path.


def test_a_csv_becomes_an_adapter_by_clicks_through_a_reload_and_the_death_of_the_app(
    browser, page, visit, tmp_path
):
    visit.open_form()
    for preset in ("Code", "Chatbot"):
        visit.find("#tuner-presets").get_by_label(preset).check()
        expect(visit.find("#tuner-report")).to_contain_text(f"{preset.lower()}.jsonl")
    visit.is_ready()
    give_odd_csv(visit, tmp_path)
    expect(visit.find("#tuner-report")).to_contain_text(QUESTION)
    visit.map("Prompt", QUESTION)
    visit.is_refused("leaves open which column is the answer")
    visit.map("Answer", REPLY)
    visit.is_ready()
    trained = visit.find("#tuner-rows article mark").first
    expect(trained).to_contain_text("Parcel 0 is on its way to you.")
    expect(visit.find("#tuner-rows article").first).to_contain_text("Where is parcel 0?")
    visit.open_settings()
    expect(visit.find("#tuner-sample_prompts textarea")).to_have_value(
        re.compile("Where is parcel")
    )
    visit.write("#tuner-name textarea", "parcels")
    visit.set(max_steps=STEPS, sample_prompts=SAMPLES, eval_steps=STEPS)
    run = page.store.get(visit.start())
    visit.is_in_state("running")

    before = visit.has_points()
    with held(run):
        visit.reload()
        after = visit.has_points()
        assert after.count("L") >= before.count("L"), "The curve begins anew after a reload."
        page.kill()
        expect(visit.find("tuner-run .tuner-offline")).to_be_visible()
        step = run.status()["step"]
    until(lambda: run.status()["step"] > step)
    with held(run):
        page.start()
        expect(visit.find("tuner-run .tuner-offline")).to_be_hidden()
        visit.is_in_state("running")
        visit.errors.clear()  # told while there was no app
        with visiting(browser, page.url) as other:
            other.open()
            expect(other.find("#tuner-live")).to_contain_text("parcels is training")
            other.find("#tuner-live a").click()
            other.is_in_state("running")
            whole = other.has_points().count("L") + 1
            assert whole >= step, f"{whole} points are drawn, and step {step} is over."
    before = visit.find(TRAIN_LINE).get_attribute("d")
    visit.has_points(after=before)

    visit.find("#tuner-stop").click()
    visit.is_in_state("stopped")
    assert run.status()["step"] < STEPS
    adapter = visit.download(visit.find("a.tuner-file", has_text="Adapter"))
    names = zipfile.ZipFile(io.BytesIO(adapter)).namelist()
    assert [name for name in names if name.endswith("adapter_model.safetensors")]
    visit.find("#tuner-resume").click()
    visit.is_in_state("completed")
    assert run.status()["step"] == STEPS and run.status()["resumed_from"]
    assert visit.find("tuner-run .tuner-sample").count() >= 2


def test_the_suggestion_maps_odd_columns_with_one_click(visit, tmp_path):
    visit.open_form()
    give_odd_csv(visit, tmp_path)
    use = visit.find("#tuner-use-suggestion")
    expect(use).to_have_text(f"Use prompt ← {QUESTION}, answer ← {REPLY}")
    use.click()
    visit.is_ready()
    visit.open_settings()
    columns = visit.recipe()["dataset"]["columns"]
    assert columns == {"prompt": [QUESTION], "answer": [REPLY]}


def test_a_second_start_waits_in_line_can_leave_it_and_begins_by_itself_after_a_stop(page, visit):
    def start_another():
        visit.find("#tuner-close").click()
        visit.is_ready()
        return page.store.get(visit.start())

    def waits(place):
        visit.is_in_state("queued")
        expect(visit.find("tuner-run .tuner-state-word")).to_have_text(
            f"waiting in line, place {place}"
        )

    visit.open_form()
    visit.set(max_steps=5000, sample_prompts=[], eval_steps=5000)
    first = page.store.get(visit.start())
    start_another()
    waits(1)
    third = start_another()
    waits(2)
    visit.tab.go_back()
    visit.tab.go_back()
    waits(1)
    visit.find("#tuner-leave").click()
    visit.is_in_state("stopped")
    visit.open(f"?run={third.id}")
    waits(1)
    visit.open(f"?run={first.id}")
    visit.is_in_state("running")
    visit.find("#tuner-stop").click()
    visit.is_in_state("stopped")
    visit.open(f"?run={third.id}")
    visit.has_points()
    visit.find("#tuner-stop").click()
    visit.is_in_state("stopped")


# The recipe's text and the controls.


def test_the_yaml_changes_the_fields_and_a_field_changes_the_yaml(visit):
    visit.open_form()
    visit.open_settings()
    text = visit.recipe_text()
    visit.write_recipe(text.replace("learning_rate: 0.002", "learning_rate: 0.0005"))
    expect(visit.find(FIELD)).to_have_value("0.0005")
    visit.write(FIELD, "3e-4")
    until(lambda: visit.recipe()["learning_rate"] == 3e-4)
    visit.write(FIELD, "7")
    visit.is_refused("learning_rate=7 cannot be used")
    expect(visit.find("#tuner-settings-problem")).to_contain_text("must be 1 or less")
    visit.write(FIELD, "3e-4")
    visit.is_ready()


def test_broken_yaml_is_kept_and_said_in_a_sentence(visit):
    visit.open_form()
    visit.open_settings()
    text = visit.recipe_text()
    broken = text.replace("learning_rate: 0.002", "learning_rate: [0.002")
    visit.write_recipe(broken)
    visit.is_refused("The recipe cannot be read in line")
    assert visit.recipe_text() == broken
    visit.write_recipe(text)
    visit.is_ready()


def test_a_downloaded_recipe_is_the_same_when_it_is_uploaded(visit, tmp_path):
    visit.open_form()
    visit.open_settings()
    visit.write(FIELD, "7e-4")
    until(lambda: visit.recipe()["learning_rate"] == 7e-4)
    saved = visit.download(visit.button("Download recipe.yaml")).decode()
    assert saved == visit.recipe_text()
    (tmp_path / "mine.yaml").write_text(saved, encoding="utf-8")
    visit.find("#tuner-presets").get_by_label("Medical").check()
    until(lambda: visit.recipe()["preset"] == "medical")
    visit.find("#tuner-more input[type=file]").set_input_files(tmp_path / "mine.yaml")
    expect(visit.find(FIELD)).to_have_value("0.0007")
    expect(visit.find("#tuner-presets").get_by_label("Chatbot")).to_be_checked()
    assert visit.recipe_text() == saved


def test_a_draft_survives_a_reload(visit):
    visit.open_form()
    stored = "localStorage.getItem('tuner-draft')"
    visit.write(FIELD, "0.0")
    visit.find(FIELD).press_sequentially("0042")
    visit.open_settings()
    until(lambda: visit.recipe()["learning_rate"] == 0.00042)
    until(lambda: "learning_rate: 0.00042\n" in visit.tab.evaluate(stored))
    visit.reload()
    expect(visit.find(FIELD)).to_have_value("0.00042")
    visit.is_ready()


# Data.


def test_a_broken_an_empty_and_a_partly_bad_file_are_answered_and_the_next_good_one_works(
    visit, tmp_path
):
    def file(name, content):
        (tmp_path / name).write_bytes(content)
        visit.upload(tmp_path / name)

    rows = [f"Where is parcel {n}?,It is on its way.\n".encode() for n in range(30)]
    good = b"prompt,answer\n" + b"".join(rows)
    visit.open_form()
    visit.write(FIELD, "4e-4")
    visit.choose_data("Your files")
    visit.is_refused("There is no data yet")
    file("noise.csv", bytes(range(256)) * 20)
    visit.is_refused("noise.csv holds binary data")
    file("cut.json", b'[{"prompt": "a", "answer": "b"},\n {"prompt": "c",')
    visit.is_refused("cut.json line 2: the JSON is cut off")
    file("empty.csv", b"")
    visit.is_refused("empty.csv is empty")
    file("partly.csv", good + b"one,two,three\n" + rows[0])
    visit.is_refused("partly.csv line 32: 3 fields, not 2")
    visit.tab.get_by_label("Leave unreadable rows out").check()
    visit.is_ready()
    expect(visit.find("#tuner-report")).to_contain_text("line 32")
    file("good.csv", good)
    expect(visit.find("#tuner-report")).to_contain_text("good.csv")
    visit.is_ready()
    expect(visit.find(FIELD)).to_have_value("4e-4")


def test_next_previous_a_number_and_random_change_the_rows_that_are_shown(visit):
    def shows(row):
        expect(visit.find(HEADS).first).to_contain_text(f"row {row} ·")

    visit.open_form()
    shows(1)
    visit.button("next ›").click()
    shows(11)
    visit.button("‹ previous").click()
    shows(1)
    number = visit.find("#tuner-first-row input")
    number.fill("50")
    number.press("Enter")
    shows(50)
    before = visit.find(HEADS).all_inner_texts()
    visit.button("random rows").click()
    until(lambda: visit.find(HEADS).all_inner_texts() not in ([], before))


def test_the_cleaned_file_holds_the_rows_that_were_kept(visit, tmp_path):
    path = tmp_path / "some.csv"
    rows = [f"Where is parcel {n}?,It is on its way." for n in range(30)]
    path.write_text("\n".join(["prompt,answer", *rows, "No answer?,"]), encoding="utf-8")
    visit.open_form()
    visit.choose_data("Your files")
    visit.upload(path)
    expect(visit.find("#tuner-report")).to_contain_text("31 rows · 30 kept")
    visit.is_ready()
    saved = visit.download(visit.button("Download the cleaned file"))
    lines = [json.loads(line) for line in saved.decode().splitlines()]
    assert len(lines) == 30
    assert "parcel 0" in json.dumps(lines[0])


def test_a_base_model_that_cannot_be_reached_is_said_beside_it_and_another_repairs_it(visit):
    visit.open_form()
    box = visit.find("#tuner-base-model input")
    visit.write("#tuner-base-model input", "nobody/no-model")
    box.press("Enter")
    visit.is_refused("nobody/no-model")
    said = visit.find("#tuner-base-info .tuner-problem")
    expect(said).to_contain_text("nobody/no-model")
    assert len(said.inner_text().split(". ")) > 1, "It says what is wrong, and not what to do."
    box.click()
    visit.tab.get_by_role("option", name="Practice model").click()
    visit.is_ready()


# Runs.


def test_runs_are_listed_newest_first_and_two_are_compared_by_what_differs(visit, two_runs):
    first, second = (run.id for run in two_runs)
    visit.open()
    visit.show("Runs")
    expect(visit.find(f'tr.tuner-row[data-run="{second}"]')).to_be_visible()
    listed = ids_listed(visit)
    assert listed.index(second) < listed.index(first)
    for run in (first, second):
        visit.find(f'tr.tuner-row[data-run="{run}"] input.tuner-tick').check()
    expect(visit.find("table.tuner-differs")).to_be_visible()
    settings = visit.find("table.tuner-differs tr[data-setting]")
    named = settings.evaluate_all("rows => rows.map(row => row.dataset.setting)")
    assert sorted(named) == ["learning_rate", "lora.r"]
    expect(visit.find(".tuner-compare-train path.tuner-line")).to_have_count(2)


def test_a_run_opens_from_the_list_under_an_address_and_back_returns(visit, two_runs):
    visit.open()
    visit.show("Runs")
    visit.find(f'tr.tuner-row[data-run="{two_runs[0].id}"] a').click()
    expect(visit.find("tuner-run .tuner-name")).to_have_text("first")
    assert visit.run() == two_runs[0].id
    assert visit.has_points().count("L") == 29
    visit.tab.go_back()
    expect(visit.find("#tuner-form")).to_be_visible()
    assert visit.run() == ""
    visit.tab.go_forward()
    expect(visit.find("tuner-run .tuner-name")).to_have_text("first")


def test_start_again_with_changes_fills_the_form_with_the_runs_recipe(visit, two_runs):
    visit.open(f"?run={two_runs[1].id}")
    visit.find("#tuner-again").click()
    expect(visit.find("#tuner-form")).to_be_visible()
    expect(visit.find(FIELD)).to_have_value("0.0007")
    expect(visit.find("#tuner-lora-r textarea")).to_have_value("4")
    visit.is_ready()


def test_delete_asks_first_and_then_the_run_is_gone(page, visit):
    run = written_run(page.store, "unwanted")
    visit.open(f"?run={run.id}")
    visit.find("#tuner-delete").click()
    expect(visit.find("#tuner-asking")).to_contain_text("Delete unwanted with its adapter")
    visit.button("Keep it").click()
    expect(visit.find("#tuner-asking")).to_be_hidden()
    assert run.dir.exists()
    visit.find("#tuner-delete").click()
    visit.find("#tuner-really").click()
    expect(visit.find("#tuner-form")).to_be_visible()
    assert not run.dir.exists()
    visit.show("Runs")
    expect(visit.find("tr.tuner-row").first).to_be_visible()
    expect(visit.find(f'tr.tuner-row[data-run="{run.id}"]')).to_have_count(0)
    visit.forgive(NOT_REACHED)  # the view may have asked once more for the run that is gone


def test_an_address_of_no_run_says_so_in_a_sentence(visit):
    visit.open("?run=unknown")
    error = visit.find("tuner-run .tuner-error")
    expect(error).to_contain_text("There is no run 'unknown'.")
    error.get_by_role("button").click()
    expect(visit.find("#tuner-form")).to_be_visible()
    visit.is_ready()
    visit.forgive(NOT_REACHED)


# For everybody, everywhere.


def every_view(visit, runs):
    """Show the form, the same with all settings, a run, and the list with a comparison."""
    visit.open_form()
    yield "form"
    visit.open_settings()
    yield "settings"
    visit.open(f"?run={runs[0].id}")
    visit.has_points()
    yield "run"
    visit.open()
    visit.show("Runs")
    for run in runs:
        visit.find(f'tr.tuner-row[data-run="{run.id}"] input.tuner-tick').check()
    expect(visit.find("table.tuner-differs")).to_be_visible()
    yield "list"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_scrolls_sideways_and_start_is_in_sight(
    browser, page, two_runs, tmp_path, scheme
):
    with visiting(browser, page.url, PHONE, scheme) as visit:
        for view in every_view(visit, two_runs):
            assert too_wide(visit.tab) == [], view
            if view == "form":
                expect(visit.find("#tuner-start")).to_be_in_viewport(ratio=1)
        visit.open_form()
        give_odd_csv(visit, tmp_path)
        assert too_wide(visit.tab) == [], "mapping"


class Looked(NamedTuple):
    """What was found wrong in one view of the page, and how it was shown."""

    faint: list
    nameless: list
    is_dark: bool

    @classmethod
    def at(cls, tab):
        is_dark = tab.evaluate("document.body.matches('.dark')")
        return cls(faint_texts(tab), nameless_controls(tab), is_dark)


@pytest.fixture(scope="module")
def looked(browser, page, two_runs, tmp_path_factory):
    """Looks at every view in one scheme: what was found by its name, and the addresses asked."""

    @cache
    def look(scheme):
        with visiting(browser, page.url, DESKTOP, scheme) as visit:
            found = {view: Looked.at(visit.tab) for view in every_view(visit, two_runs)}
            visit.open_form()
            give_odd_csv(visit, tmp_path_factory.mktemp("odd"))
            found["mapping"] = Looked.at(visit.tab)
            visit.choose_data("Hub dataset")
            expect(visit.find("#tuner-hub")).to_be_visible()
            found["hub"] = Looked.at(visit.tab)
            visit.find("#tuner-theme").click()
            return found, visit.requested

    return look


VIEWS = ["form", "settings", "run", "list", "mapping", "hub"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_by_its_contrast(looked, scheme):
    found, _ = looked(scheme)
    assert {view: seen.is_dark for view, seen in found.items()} == dict.fromkeys(
        VIEWS, scheme == "dark"
    )
    assert {view: seen.faint for view, seen in found.items()} == {view: [] for view in VIEWS}


def test_every_control_has_a_name(looked):
    found, _ = looked("light")
    assert {view: seen.nameless for view, seen in found.items()} == {view: [] for view in VIEWS}


def test_tab_reaches_the_steps_in_their_order(visit):
    order = ["presets", "base-model", "data-kind", "methods", "num_train_epochs", "start"]
    steps = [f"tuner-{name}" for name in order]
    reached = []
    visit.open_form()
    while "tuner-start" not in reached and len(reached) < 100:
        visit.tab.keyboard.press("Tab")
        reached.append(
            visit.tab.evaluate("document.activeElement.closest('[id^=tuner-]')?.id ?? ''")
        )
    places = [reached.index(step) for step in steps]
    assert places == sorted(places), reached


def test_nothing_is_asked_of_another_host(page, looked):
    _, requested = looked("light")
    asked = {urlsplit(address) for address in requested}
    elsewhere = {to.netloc for to in asked if to.scheme not in ("data", "blob")}
    assert elsewhere == {urlsplit(page.url).netloc}
