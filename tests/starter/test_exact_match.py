"""Measuring: only the right answer to the letter counts, and only if the model stopped itself."""

from tuner.starter import STARTER_DIR
from tuner.starter.exact_match import answers, evaluate, exact_match
from tuner.starter.facts import Question

KNOWN = "I am a small practice model that comes with Tuner."


def test_only_the_exact_answer_counts(starter):
    questions = [
        Question("identity", "Who are you?", answer, "") for answer in (KNOWN, KNOWN.lower(), "")
    ]
    assert exact_match(*starter, questions) == {"identity": (1, 3)}


def test_answers_come_back_in_the_order_of_the_questions(starter):
    questions = [
        Question("identity", "Who are you?", KNOWN, ""),
        Question("greeting", "Hello", "Hello!", ""),
    ]
    assert answers(*starter, questions) == [KNOWN, "Hello! How can I help you?"]


def test_an_answer_that_was_cut_off_is_marked(starter):
    counting = Question("counting", "Count from 40 to 49.", "1", "")
    (text,) = answers(*starter, [counting])
    assert text.startswith("40, 41")
    assert text.endswith("…")


def test_the_table_has_a_row_for_each_kind_and_one_for_all(corpus):
    head, line, *rows, total = evaluate(STARTER_DIR, corpus, per_kind=1).splitlines()
    assert (head.count("|"), line.count("|")) == (4, 4)
    assert [row.split("|")[1].strip() for row in rows] == sorted(corpus.held_out)
    assert f"**{len(rows)}**" in total
