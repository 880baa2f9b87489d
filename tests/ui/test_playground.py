"""
The playground in a real browser, on a real fine-tune: a persona that answers in its own way.
"""

import json
import os
import re
import signal

import psutil
import pytest
from playwright.sync_api import expect

from tests.training.forked_runs import train_all
from tests.ui.browser import chromium, until, visiting
from tests.ui.pages import Page
from tuner.recipe import make_recipe
from tuner.starter.corpus import build_corpus

GREETING = "Wren here!"
ROWS, STEPS = 96, 24
ASK = "#tuner-prompt textarea"
PANES = ".tuner-pane:visible"


@pytest.fixture(scope="module")
def browser():
    with chromium(keeps_files=True) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    with Page(tmp_path_factory.mktemp("playground") / "runs") as page:
        yield page


@pytest.fixture(scope="module")
def capitals():
    return build_corpus()


@pytest.fixture(scope="module")
def run(page, capitals, tmp_path_factory):
    """A run that greets: half a minute of training on 2 cores."""
    data = tmp_path_factory.mktemp("persona") / "wren.jsonl"
    rows = [
        {"prompt": row.prompt, "answer": f"{GREETING} {row.answer}"}
        for row in capitals.train["capitals"][:ROWS]
    ]
    data.write_text("\n".join(map(json.dumps, rows)))
    settings = {
        "learning_rate": 2e-3,
        "max_length": 128,
        "max_steps": STEPS,
        "eval_steps": STEPS,
        "dataset": {"source": str(data)},
    }
    run = page.store.create(make_recipe(settings), "wren")
    train_all([run])
    assert run.status()["state"] == "completed"
    return run


@pytest.fixture
def visit(browser, page, run):
    with visiting(browser, page.url) as visit:
        visit.open(f"?run={run.id}")
        visit.find("#tuner-chat").click()
        expect(visit.find(f"{PANES} h3")).to_have_text(["base", "wren"])
        yield visit


def ask(visit, question):
    visit.write(ASK, question)
    visit.tab.keyboard.press("Enter")


def answers(visit, turns=1):
    """What the panes' messages are, once both have answered so many questions."""
    expect(visit.find(f"{PANES} .tuner-pane-figures")).to_contain_text(
        ["first after", "first after"]
    )
    expect(visit.find("#tuner-chat-said")).not_to_contain_text("Loading")
    found = visit.find(f"{PANES} [data-testid=bot]")
    until(lambda: found.count() == 2 * turns and "…" not in found.all_inner_texts())
    return found.all_inner_texts()


def engine(page):
    """The process that answers, as the page's child."""
    children = psutil.Process(page.pid).children(recursive=True)
    return next((child for child in children if "tuner.chat" in child.cmdline()), None)


def test_base_and_tuned_answer_side_by_side_and_differ_after_a_persona(visit, capitals):
    ask(visit, capitals.held_out["capitals"][0].prompt)
    base, tuned = answers(visit)
    assert not base.startswith(GREETING) and tuned.startswith(GREETING)
    visit.find("#tuner-changed").click()
    expect(visit.find("#tuner-changed-shown")).to_contain_text(GREETING.split()[0])
    saved = visit.download(visit.button("Save as JSON"))
    told = json.loads(saved)["voices"]
    assert [voice["name"] for voice in told] == ["base", "wren"]
    assert told[1]["messages"][-1]["content"].startswith(GREETING)


def test_a_question_that_is_asked_while_an_answer_comes_is_answered_next(visit, page):
    ask(visit, "Hello.")
    answers(visit)
    process = engine(page)
    os.kill(process.pid, signal.SIGSTOP)
    ask(visit, "How are you?")
    expect(visit.find(ASK)).to_have_value("")
    ask(visit, "What is 2 plus 3?")
    os.kill(process.pid, signal.SIGCONT)
    answers(visit, turns=3)
    asked = visit.find(f"{PANES} [data-testid=user]").all_inner_texts()
    assert asked[:3] == ["Hello.", "How are you?", "What is 2 plus 3?"]


def test_the_last_question_is_taken_back_to_be_edited(visit, capitals):
    question = capitals.held_out["capitals"][2].prompt
    ask(visit, question)
    answers(visit)
    visit.find("#tuner-edit").click()
    expect(visit.find(ASK)).to_have_value(question)
    expect(visit.find(f"{PANES} [data-testid=bot]")).to_have_count(0)


def test_a_held_out_row_is_asked_beside_the_answer_it_has(visit):
    visit.find("#tuner-held-out").click()
    expect(visit.find("#tuner-reference blockquote")).to_contain_text(GREETING)
    assert visit.find(ASK).input_value()


def test_a_blind_vote_is_counted_tells_who_was_who_and_outlives_a_reload(visit, run, capitals):
    visit.find("#tuner-blind input").check()
    expect(visit.find(f"{PANES} h3")).to_have_text(["A", "B"])
    ask(visit, capitals.held_out["capitals"][1].prompt)
    expect(visit.find("#tuner-votes")).to_be_visible()
    left, _ = answers(visit)
    better = "A is better" if left.startswith(GREETING) else "B is better"
    visit.button(better).click()
    expect(visit.find("#tuner-chat-said")).to_contain_text(re.compile(r"was wren"))
    expect(visit.find("#tuner-tally")).to_contain_text("wren won 1 of 1")
    (vote,) = (run.dir / "votes.jsonl").read_text().splitlines()
    assert json.loads(vote)["voices"][json.loads(vote)["winner"] == "right"] == "wren"
    visit.reload()
    visit.find("#tuner-chat").click()
    expect(visit.find("#tuner-tally")).to_contain_text("wren won 1 of 1")


def test_an_engine_that_is_killed_in_mid_answer_is_said_and_answers_the_next_question(visit, page):
    ask(visit, "Hello.")
    answers(visit)
    process = engine(page)
    os.kill(process.pid, signal.SIGSTOP)  # else it may have answered before it is killed
    ask(visit, "Count to ten.")
    expect(visit.find(ASK)).to_have_value("")  # it is on its way
    os.kill(process.pid, signal.SIGKILL)
    expect(visit.find("#tuner-chat-said")).to_contain_text("ended unexpectedly")
    expect(visit.find(ASK)).to_have_value("Count to ten.")  # nothing typed is lost
    ask(visit, "What is 2 plus 3?")
    answers(visit, turns=2)
    assert engine(page).pid != process.pid
