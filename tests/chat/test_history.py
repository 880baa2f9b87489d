"""Conversations that outgrow the model's context."""

import pytest

from tuner.chat.history import left_out_note, split_turns, trim
from tuner.errors import ChatError


def conversation(turns, system="Be brief."):
    """`turns` questions with their answers and one that is open; each message has two words."""
    messages = [{"role": "system", "content": system}] if system else []
    for number in range(turns):
        messages += [
            {"role": "user", "content": f"question {number}"},
            {"role": "assistant", "content": f"answer {number}"},
        ]
    return [*messages, {"role": "user", "content": "last question"}]


def words(messages):
    return sum(len(message["content"].split()) for message in messages)


def test_what_fits_and_what_has_no_limit_stays_whole():
    messages = conversation(3)
    assert trim(messages, words, 26, 10) == (tuple(messages), 0)
    assert trim(messages, words, 0, 10**9) == (tuple(messages), 0)


@pytest.mark.parametrize("turns", [1, 2, 7, 50])
@pytest.mark.parametrize("system", ["Be brief.", ""])
def test_as_few_of_the_oldest_turns_go_as_it_takes(turns, system):
    messages = conversation(turns, system)
    for room in range(words(conversation(0, system)), words(messages)):
        kept, left_out = trim(messages, words, room + 5, 5)

        assert words(kept) <= room < words(kept) + 4
        assert len(messages) - len(kept) == 2 * left_out
        assert kept[-1] == messages[-1]
        assert not system or kept[0]["role"] == "system"


def test_few_renderings_are_enough_for_a_long_conversation():
    rendered = []

    def count(messages):
        rendered.append(messages)
        return words(messages)

    trim(conversation(1000), count, 2000, 100)
    assert len(rendered) < 15


def test_a_last_question_that_does_not_fit_alone_is_refused():
    with pytest.raises(ChatError, match=r"has 4 tokens .* leaves 3 of them"):
        trim(conversation(4), words, 13, 10)
    with pytest.raises(ChatError, match="leaves 0 of them beside max_new_tokens=20"):
        trim(conversation(0), words, 10, 20)


def test_an_answer_before_the_first_question_goes_first():
    greeting = {"role": "assistant", "content": "Good morning"}
    question = {"role": "user", "content": "last question"}
    assert split_turns([greeting, question]) == ([], [[greeting], [question]])
    assert trim([greeting, question], words, 3, 1) == ((question,), 1)


def test_the_note_counts():
    assert "oldest 2 turns were left out" in left_out_note(2, 512)
