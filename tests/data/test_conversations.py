"""Rows as people write them: what is mended, and what is left out with a reason."""

import pytest

from tuner.data.cell_values import ROLES, as_text
from tuner.data.examples import RowError, content_key, prompt_key
from tuner.data.formats import recognise

SHAPE = recognise(["messages"], [{"messages": [{"role": "user", "content": "x"}]}], {}, "sft")
PAIRS = recognise(["question", "answer"], [], {}, "sft")


def turns(*spoken: str) -> list[dict]:
    """ "u:Hi" is a turn of the user, a: the assistant's, s: the system's."""
    roles = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    return [{"role": roles[turn[0]], "content": turn[2:]} for turn in spoken]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["u:Q", "a:A"], ["u:Q", "a:A"]),
        (["s:S", "u:Q", "a:A", "u:q", "a:a"], ["s:S", "u:Q", "a:A", "u:q", "a:a"]),
        (["u:Q", "u:q", "a:A", "a:a"], ["u:Q\n\nq", "a:A\n\na"]),
        (["a:Hello!", "u:Q", "a:A"], ["u:Q", "a:A"]),
        (["s:S", "a:Hello!", "u:Q", "a:A"], ["s:S", "u:Q", "a:A"]),
        (["s:S", "s:s", "u:Q", "a:A"], ["s:S\n\ns", "u:Q", "a:A"]),
        (["s:", "u:Q", "a:A"], ["u:Q", "a:A"]),
        (["u:Q", "a:A", "u:Thanks"], ["u:Q", "a:A"]),
        (["u:Q", "a:A", "u:q", "a:"], ["u:Q", "a:A"]),
        (["u:  Q \n", "a:\n\n  code\n    more\n"], ["u:Q", "a:  code\n    more"]),
    ],
)
def test_harmless_disorder_is_mended(given, kept):
    assert SHAPE.convert({"messages": turns(*given)}) == {"messages": turns(*kept)}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (turns("u:Q"), "the answer is empty"),
        (turns("u:Q", "a:"), "the answer is empty"),
        (turns("u:Q", "a:", "u:q", "a:A"), "the answer is empty"),
        (turns("a:A"), "there is no user turn"),
        (turns("s:S", "a:A"), "there is no user turn"),
        ([], "there is no user turn"),
        (None, "there is no user turn"),
        (turns("u:", "a:A"), "a user turn is empty"),
        (turns("u:Q", "a:A", "s:S", "u:q", "a:a"), "a system message stands in the middle"),
        (turns("u:Q", "t:42", "a:A"), "role 'tool' has no place"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "more than text"),
        ([{"role": "assistant", "content": None, "tool_calls": [1]}], "calls a tool"),
        ([{"role": "user", "content": b"\x00"}], "binary data"),
    ],
)
def test_a_conversation_that_teaches_nothing_is_left_out_with_a_reason(messages, reason):
    with pytest.raises(RowError, match=reason):
        SHAPE.convert({"messages": messages})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "Q", "answer": " \n"}, "the answer is empty"),
        ({"question": "Q", "answer": None}, "the answer is empty"),
        ({"question": "Q", "answer": float("nan")}, "the answer is empty"),
        ({"question": "Q"}, "the answer is empty"),
        ({"question": "", "answer": "A"}, "the prompt is empty"),
        ({"answer": "A"}, "the prompt is empty"),
    ],
)
def test_a_row_without_question_or_answer_is_left_out(row, reason):
    with pytest.raises(RowError, match=reason):
        PAIRS.convert(row)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Q", "chosen": "A", "rejected": "A"}, "chosen and rejected are the same"),
        ({"prompt": "Q", "chosen": "A", "rejected": ""}, "the answer is empty"),
        ({"prompt": "", "chosen": "A", "rejected": "B"}, "does not end with a user turn"),
        (
            {"prompt": "Q", "chosen": turns("a:A", "u:q", "a:a"), "rejected": "B"},
            "more than the assistant's own",
        ),
    ],
)
def test_a_pair_that_prefers_nothing_is_left_out(row, reason):
    shape = recognise(["prompt", "chosen", "rejected"], [row], {}, "dpo")
    with pytest.raises(RowError, match=reason):
        shape.convert(row)


@pytest.mark.parametrize("role", sorted(ROLES))
def test_every_spelling_of_a_role_is_understood_in_any_case(role):
    other = "gpt" if ROLES[role] != "assistant" else "human"
    first, second = (role, other) if ROLES[role] != "assistant" else (other, role)
    rows = [{"from": first.upper(), "value": "1"}, {"from": second, "value": "2"}]
    if ROLES[role] == "system":
        rows.insert(1, {"from": "human", "value": "Q"})
    shape = recognise(["conversations"], [{"conversations": rows}], {}, "sft")
    roles = [message["role"] for message in shape.convert({"conversations": rows})["messages"]]
    assert roles[-2:] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "True"),
        (3, "3"),
        (["a", None, "b"], "a\n\nb"),
        ({"name": "Ä", "age": 3}, '{"name": "Ä", "age": 3}'),
        ({}, ""),
        ("two\r\nlines", "two\nlines"),
        ("half \ud800 a pair", "half � a pair"),
        ({"half": "\ud800"}, '{"half": "�"}'),
        ("[{not messages}]", "[{not messages}]"),
    ],
)
def test_any_cell_becomes_text(value, text):
    assert as_text(value) == text


@pytest.mark.parametrize("answer", ['{"role": 1}', "{'a': 1}  # code", '[{"a": 1},\n {"b": 2}]'])
def test_an_answer_that_is_itself_json_stays_as_it_is_written(answer):
    assert PAIRS.convert({"question": "Q", "answer": answer})["messages"][1]["content"] == answer


def test_a_cell_nested_without_end_is_a_reason_not_a_crash():
    value: list = []
    for _ in range(10_000):
        value = [value]
    with pytest.raises(RowError, match="nested too deeply"):
        PAIRS.convert({"question": "Q", "answer": value})


def test_keys_ignore_white_space_and_sources_but_nothing_else():
    one = {"messages": turns("u:a  b", "a:c"), "source": {"file": "x", "line": 1}}
    same = {"messages": turns("u:a\nb", "a:c"), "source": {"file": "y", "line": 9}}
    assert content_key(one) == content_key(same)
    for different in (turns("u:a b", "a:C"), turns("u:a", "a:b c"), turns("s:a b", "a:c")):
        assert content_key(one) != content_key({"messages": different})


def test_rows_that_ask_the_same_share_a_prompt_key():
    one, other = turns("u:What  is it?", "a:This."), turns("u:what is it?", "a:That.", "u:q", "a:a")
    assert prompt_key({"messages": one}) == prompt_key({"messages": other})
    assert prompt_key({"messages": one}) == prompt_key({"prompt": one[:1], "chosen": one[1:]})
    assert prompt_key({"messages": one}) != prompt_key({"messages": turns("u:Why?", "a:This.")})
