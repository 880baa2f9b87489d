"""What people may use of a page that is not theirs."""

import json

import pytest

from tuner.errors import ChatError, HubError, RunError
from tuner.hub.identity import Person, Role
from tuner.hub.quotas import LEDGER, MOST_IN_LINE, Limits, Minutes, Questions, read_limits
from tuner.recipe import make_recipe
from tuner.runs.store import RunStore

ANN, BOB = Person(Role.OWNER, "ann"), Person(Role.SIGNED_IN, "bob")
CARL, VISITOR = Person(Role.SIGNED_IN, "carl"), Person(Role.VISITOR)
FOR_ALL = Limits(training="signed-in", minutes_per_day=2, questions_per_minute=2)
RECIPE = make_recipe({"dataset": {"source": "rows.csv"}})


@pytest.fixture
def now():
    return [0.0]


@pytest.fixture
def questions(now):
    return Questions(FOR_ALL, clock=lambda: now[0])


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


@pytest.fixture
def stopped():
    return []


@pytest.fixture
def minutes(store, stopped):
    return Minutes(store, FOR_ALL, lambda run: stopped.append(run.id))


def at_work(store, owner):
    """A run that its process, this one, works at."""
    from tests.ui.telling import lives

    run = store.create(RECIPE, f"of {owner}", owner=owner)
    lives(run)
    return run


def test_limits_are_read_from_the_environment_and_all_that_is_wrong_is_told(monkeypatch):
    assert read_limits() == Limits()
    monkeypatch.setenv("TUNER_TRAINING", "signed-in")
    monkeypatch.setenv("TUNER_MAX_ROWS", "50")
    assert read_limits() == Limits(training="signed-in", max_rows=50)
    for name, value in (
        ("TUNER_TRAINING", "everybody"),
        ("TUNER_MAX_ROWS", "0"),
        ("TUNER_MINUTES_PER_DAY", "-5"),
        ("TUNER_QUESTIONS_PER_MINUTE", "many"),
    ):
        monkeypatch.setenv(name, value)
    with pytest.raises(HubError) as refused:
        read_limits()
    assert len(refused.value.problems) == 4


@pytest.mark.parametrize(
    ("training", "who"),
    [("owner", [ANN]), ("signed-in", [ANN, BOB])],
)
def test_who_may_train(training, who):
    limits = Limits(training=training)
    assert [here for here in (ANN, BOB, VISITOR) if limits.may_train(here)] == who
    assert not limits.may_train(Person(Role.SIGNED_IN, None))


def test_a_visitor_asks_so_often_and_another_address_for_itself(questions, now):
    for _ in range(2):
        questions.count(VISITOR, "192.0.2.1", 64)
    now[0] = 50.0
    with pytest.raises(ChatError, match=r"2 questions a minute here\. Ask again in 10 s"):
        questions.count(VISITOR, "192.0.2.1", 64)
    questions.count(VISITOR, "192.0.2.2", 64)
    now[0] = 60.0
    questions.count(VISITOR, "192.0.2.1", 64)


def test_made_up_addresses_do_not_help_beyond_what_all_visitors_may_ask(questions):
    for number in range(20):
        questions.count(VISITOR, f"192.0.2.{number}", 64)
    with pytest.raises(ChatError, match="All visitors together"):
        questions.count(VISITOR, "192.0.2.99", 64)
    questions.count(BOB, "192.0.2.99", 64)


def test_who_signed_in_may_ask_more_and_the_owner_as_much_as_they_like(questions):
    for _ in range(10):
        questions.count(BOB, "192.0.2.1", 1024)
    with pytest.raises(ChatError, match="You may ask 10 questions"):
        questions.count(BOB, "192.0.2.7", 1024)
    for _ in range(50):
        questions.count(ANN, "192.0.2.1", 1024)


def test_a_visitors_answers_are_short(questions):
    with pytest.raises(ChatError, match="max_new_tokens=257 is more than the 256"):
        questions.count(VISITOR, "192.0.2.1", 257)


def test_minutes_are_counted_for_who_signed_in_and_end_their_run(minutes, store, stopped):
    minutes.require(BOB)
    minutes.require(ANN)
    run, owners = at_work(store, "bob"), at_work(store, "ann")
    minutes.look(100)
    assert stopped == []
    minutes.look(30)
    assert stopped == [run.id] and owners.id not in stopped
    with pytest.raises(RunError, match="Your 2 minutes of training on this machine are used up"):
        minutes.require(BOB)
    minutes.require(CARL)
    minutes.require(ANN)


def test_a_deleted_run_and_a_new_page_do_not_bring_minutes_back(minutes, store, tmp_path):
    minutes.require(BOB)
    run = at_work(store, "bob")
    minutes.look(500)
    run.update_status(state="completed", pid=None)
    store.delete(run.id)
    with pytest.raises(RunError, match="used up"):
        Minutes(store, FOR_ALL, print).require(BOB)


def test_a_new_day_begins_with_all_minutes_and_counts_runs_of_the_day_before(
    minutes, store, stopped
):
    store.root.mkdir()
    kept = {"day": "2001-01-01", "seconds": {"bob": 9999.0}}
    (store.root / LEDGER).write_text(json.dumps(kept))
    run = at_work(store, "bob")
    minutes.look(90)
    assert stopped == []
    minutes.look(90)
    assert stopped == [run.id]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"day": 1}', '{"day": "x", "seconds": []}'])
def test_a_broken_ledger_counts_from_nothing(minutes, store, text):
    store.root.mkdir()
    (store.root / LEDGER).write_text(text)
    minutes.require(BOB)
    assert json.loads((store.root / LEDGER).read_text())["seconds"] == {"bob": 0.0}


def test_only_so_many_runs_of_one_person_are_in_line(minutes, store):
    for _ in range(MOST_IN_LINE):
        minutes.require(BOB)
        store.create(RECIPE, "bot", owner="bob")
    with pytest.raises(RunError, match=f"{MOST_IN_LINE} of your runs wait"):
        minutes.require(BOB)
    minutes.require(CARL)
