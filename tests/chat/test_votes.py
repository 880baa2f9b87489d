"""Votes: kept with the run, counted whichever side they were on, and how sure they make us."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tuner.chat.votes import Tally, add_vote, read_votes, tally, votes_path, wilson_interval
from tuner.errors import RunError
from tuner.recipe import make_recipe
from tuner.runs.store import RunStore


@pytest.fixture
def run(tmp_path):
    return RunStore(tmp_path).create(make_recipe({"preset": "chatbot"}), "bot")


def vote(run, winner, voices=("base", "bot"), **more):
    return add_vote(run, prompt="Hi", answers=("A", "B"), voices=voices, winner=winner, **more)


def test_votes_are_kept_in_order_with_all_that_was_seen(run):
    first = vote(run, "left", voter="ann")
    vote(run, "both bad", voices=("bot", "base"))

    votes = read_votes(run)
    assert votes[0] == first
    assert first.keys() == {"time", "prompt", "left", "right", "winner", "voices", "voter"}
    assert [one["winner"] for one in votes] == ["left", "both bad"]
    assert "voter" not in votes[1]


def test_a_run_nobody_voted_on_has_no_votes_and_no_rate(run):
    count = tally(read_votes(run), "bot", "base")
    assert (count.rate, count.interval, count.missing) == (None, None, None)


def test_votes_of_many_at_once_are_all_there(run):
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: vote(run, "right"), range(40)))
    assert tally(read_votes(run), "bot", "base") == Tally(wins=40)


def test_a_torn_line_costs_no_vote_but_itself(run):
    vote(run, "left")
    with open(votes_path(run), "ab") as file:
        file.write(b'{"winner": "le')
    vote(run, "tie")
    with open(votes_path(run), "ab") as file:
        file.write(b'\xff\x00\n[]\n{"winner": "left", "voices": ["a"]}\n' + b"[" * 99_999 + b"\n")
        file.write(json.dumps({"winner": "me", "voices": ["a", "b"]}).encode() + b"\n")
    assert [one["winner"] for one in read_votes(run)] == ["left", "tie"]


def test_what_is_no_vote_is_refused_before_it_is_written(run):
    with pytest.raises(RunError, match="left, right, tie, both bad"):
        vote(run, "middle")
    assert not votes_path(run).exists()


def test_a_side_does_not_matter_but_who_stood_there(run):
    vote(run, "left", ("bot", "base"))
    vote(run, "right", ("base", "bot"))
    vote(run, "right", ("bot", "base"))
    vote(run, "left", ("bot", "other"))
    votes = read_votes(run)

    assert tally(votes, "bot", "base") == Tally(wins=2, losses=1)
    assert tally(votes, "base", "bot") == Tally(wins=1, losses=2)


def test_ties_count_half():
    assert Tally(wins=3, losses=1, ties=3, both_bad=1).rate == 5 / 8


@pytest.mark.parametrize(("wins", "losses"), [(6, 4), (11, 9), (3, 1), (1, 0), (4, 6), (0, 2)])
def test_as_many_votes_as_are_missing_make_it_clear_and_one_fewer_do_not(wins, losses):
    count = Tally(wins, losses)
    needed = count.votes + count.missing

    def leaves_out_half(votes):
        low, high = wilson_interval(count.rate, votes)
        return low > 0.5 or high < 0.5

    assert leaves_out_half(needed)
    assert not leaves_out_half(needed - 1)
