"""The practice model's corpus: true, split without a leak, and the same every time."""

import hashlib
import operator
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

import pytest

from tuner.starter.corpus import (
    Corpus,
    build_corpus,
    conversations,
    held_out_sample,
    normalised,
    prompt_messages,
)
from tuner.starter.facts import Question

EQUATION = re.compile(r"(\d+) ([-+x/]) (\d+) = (\d+)")
SIGNS = {"+": operator.add, "-": operator.sub, "x": operator.mul, "/": operator.truediv}
DIGEST_OF_ANOTHER_PROCESS = """
import hashlib
from tuner.starter.corpus import build_corpus
print(hashlib.sha256(repr(build_corpus(0)).encode()).hexdigest())
"""


def everything(corpus: Corpus) -> list[Question]:
    halves = (corpus.train, corpus.held_out)
    return [question for half in halves for questions in half.values() for question in questions]


def is_true(a: str, sign: str, b: str, result: str) -> bool:
    return SIGNS[sign](int(a), int(b)) == int(result)


def test_every_equation_in_an_answer_is_true(corpus):
    found = {line for item in everything(corpus) for line in EQUATION.findall(item.answer)}
    assert {sign for _, sign, _, _ in found} == set(SIGNS)
    assert [line for line in found if not is_true(*line)] == []


def test_no_slot_is_left_unfilled(corpus):
    unfilled = re.compile("[{}]")
    assert [item for item in everything(corpus) if unfilled.search(item.prompt + item.answer)] == []


def test_no_held_out_question_is_in_training(corpus):
    def prompts(half: dict[str, list[Question]]) -> set[str]:
        return {normalised(question) for questions in half.values() for question in questions}

    assert not prompts(corpus.train) & prompts(corpus.held_out)


def test_letter_case_and_punctuation_make_no_new_question_but_signs_do():
    spellings = ("What is 7 + 5?", "what is 7+5", "What is 7 - 5?", "What is 75?")
    same, again, *others = (normalised(Question("", prompt, "", "")) for prompt in spellings)
    assert same == again
    assert len({same, *others}) == 3


# The numbers are read from the prompts, so that this does not rest on the keys of the split.
@pytest.mark.parametrize("kind", ["addition", "subtraction", "comparing"])
def test_a_held_out_pair_of_numbers_is_in_no_training_question(corpus, kind):
    def pairs(questions: Iterable[Question]) -> set[tuple[str, ...]]:
        return {tuple(sorted(re.findall(r"\d+", question.prompt))) for question in questions}

    held_out = pairs(corpus.held_out[kind])
    assert {len(pair) for pair in held_out} == {2}
    assert not held_out & pairs(corpus.train[kind])


def test_every_kind_has_held_out_questions(corpus):
    assert set(corpus.held_out) == set(corpus.train)


def test_a_sample_takes_no_more_than_asked_of_each_kind(corpus):
    kinds = [question.kind for question in held_out_sample(corpus, 3)]
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(corpus.held_out, 3)


# In one process sets keep their order, so only another one shows whether something hangs on it.
def test_another_process_builds_the_same_corpus(corpus):
    again = subprocess.run(
        [sys.executable, "-c", DIGEST_OF_ANOTHER_PROCESS],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert again.stdout.strip() == hashlib.sha256(repr(corpus).encode()).hexdigest()


def test_conversations_follow_from_the_seed_and_the_training_half_alone(corpus):
    blind = replace(corpus, held_out={})
    first, second = (
        list(islice(conversations(each, random.Random(3)), 50)) for each in (corpus, blind)
    )
    assert first == second


def test_another_seed_holds_out_other_questions(corpus):
    assert build_corpus(1).held_out["capitals"] != corpus.held_out["capitals"]


def test_prompts_end_with_the_question(corpus):
    question = corpus.held_out["remembering"][0]
    (told, reply), *_ = question.history
    assert prompt_messages(question) == [
        {"role": "user", "content": told},
        {"role": "assistant", "content": reply},
        {"role": "user", "content": question.prompt},
    ]


def test_a_system_prompt_comes_first(corpus):
    question = corpus.held_out["system prompt"][0]
    assert prompt_messages(question)[0] == {"role": "system", "content": question.system}
