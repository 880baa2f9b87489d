"""Every shape that data sets come in: recognised by name, converted, explained; never guessed."""

import json
import re

import pytest

from tuner.data.examples import RowError
from tuner.data.formats import recognise
from tuner.errors import DatasetError


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


QA = {"messages": [user("Q"), assistant("A")]}
PAIR = {"prompt": [user("Q")], "chosen": [assistant("A")], "rejected": [assistant("B")]}
GOOD = {"prompt": [user("Q")], "completion": [assistant("A")], "label": True}
BAD = GOOD | {"label": False}


def found(row, objective="sft", **mapping):
    return recognise(list(row), [row], mapping, objective, name="rows.csv")


SFT = {
    "alpaca": ({"instruction": "Q", "input": "", "output": "A"}, QA),
    "alpaca with input": (
        {"instruction": "Sum", "input": "1 2", "output": "3"},
        {"messages": [user("Sum\n\n1 2"), assistant("3")]},
    ),
    "alpaca with history and system": (
        {"system": "S", "history": [["q", "a"]], "instruction": "Q", "output": "A"},
        {"messages": [system("S"), user("q"), assistant("a"), user("Q"), assistant("A")]},
    ),
    "alpaca rendered for others": (
        {"instruction": "Q", "output": "A", "prompt": "Below…", "text": "Below…", "response": "x"},
        QA,
    ),
    "dolly": ({"instruction": "Q", "context": "", "response": "A", "category": "x"}, QA),
    "openorca": (
        {"id": "1", "system_prompt": "S", "question": "Q", "response": "A"},
        {"messages": [system("S"), user("Q"), assistant("A")]},
    ),
    "prompt, completion": ({"prompt": "Q", "completion": "A"}, QA),
    "prompt, response": ({"prompt": "Q", "response": "A"}, QA),
    "question, answer": ({"question": "Q", "answer": "A"}, QA),
    "q, a": ({"Q": "Q", "A": "A"}, QA),
    "input, output": ({"input": "Q", "output": "A"}, QA),
    "human, assistant": ({"human": "Q", "assistant": "A"}, QA),
    "options beside": ({"question": "Q", "A": "1", "B": "2", "answer": "A"}, QA),
    "medical-o1": ({"Question": "Q", "Complex_CoT": "x", "Response": "A"}, QA),
    "pubmedqa": (
        {"QUESTION": "Q", "CONTEXTS": ["one", "two"], "LONG_ANSWER": "A", "final_decision": "yes"},
        {"messages": [user("Q\n\none\n\ntwo"), assistant("A")]},
    ),
    "squad": (
        {"question": "Q", "context": "C", "answers": {"text": ["A", "B"], "answer_start": [1, 2]}},
        {"messages": [user("Q\n\nC"), assistant("A")]},
    ),
    "header spelling": ({" Question ": "Q", "ANSWER\ufeff": "A"}, QA),
    "spaces and hyphens": ({"Long-Answer": "A", "question": "Q"}, QA),
    "numbers": ({"question": 6, "answer": 7.5}, {"messages": [user("6"), assistant("7.5")]}),
    "trl's conversational columns": ({"prompt": [user("Q")], "completion": [assistant("A")]}, QA),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        QA,
    ),
    "sharegpt with system column": (
        {
            "system": "S",
            "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}],
        },
        {"messages": [system("S"), user("Q"), assistant("A")]},
    ),
    "messages": ({"messages": [user("Q"), assistant("A")]}, QA),
    "messages beside prompt (no_robots)": (
        {"prompt": "Q", "prompt_id": "x", "messages": [user("Q"), assistant("A")]},
        QA,
    ),
    "text parts": (
        {
            "messages": [
                user([{"type": "text", "text": "Q"}]),
                assistant([{"type": "text", "text": "A"}]),
            ]
        },
        QA,
    ),
    "messages as JSON in a table": ({"messages": json.dumps([user("Q"), assistant("A")])}, QA),
    "messages as Python in a table": ({"messages": str([user("Q"), assistant("A")])}, QA),
    "messages under an unknown name": ({"thread": [user("Q"), assistant("A")], "id": "7"}, QA),
    "document, summary": ({"original_text": "Q", "reference_summary": "A", "title": ""}, QA),
    "billsum": ({"text": "Q", "summary": "A", "title": "T"}, QA),
    "text": ({"text": "T"}, {"text": "T"}),
    "content": ({"title": "x", "content": "T"}, {"text": "T"}),
    "dpo, chosen": ({"prompt": "Q", "chosen": "A", "rejected": "B"}, QA),
    "kto, good": ({"prompt": "Q", "completion": "A", "label": True}, QA),
}


@pytest.mark.parametrize("name", SFT)
def test_a_shape_is_recognised_without_help(name):
    row, expected = SFT[name]
    assert found(row).convert(row) == expected


DPO = {
    "strings": {"prompt": "Q", "chosen": "A", "rejected": "B"},
    "question": {"question": "Q", "chosen": "A", "rejected": "B"},
    "alpaca": {"instruction": "Q", "input": "", "chosen": "A", "rejected": "B"},
    "llama-factory": {
        "conversations": [{"from": "human", "value": "Q"}],
        "chosen": {"from": "gpt", "value": "A"},
        "rejected": {"from": "gpt", "value": "B"},
    },
    "messages as context": {"messages": [user("Q")], "chosen": "A", "rejected": "B"},
    "messages throughout": {
        "prompt": [user("Q")],
        "chosen": [assistant("A")],
        "rejected": [assistant("B")],
    },
    "shared prefix": {
        "chosen": [user("Q"), assistant("A")],
        "rejected": [user("Q"), assistant("B")],
    },
    "ultrafeedback": {
        "prompt": "Q",
        "messages": [user("Q"), assistant("A")],
        "chosen": [user("Q"), assistant("A")],
        "rejected": [user("Q"), assistant("B")],
        "score_chosen": 8.5,
    },
    "hh-rlhf": {
        "chosen": "\n\nHuman: Q\n\nAssistant: A",
        "rejected": "\n\nHuman: Q\n\nAssistant: B",
    },
}


@pytest.mark.parametrize("name", DPO)
def test_preferences_are_recognised_whatever_their_context(name):
    row = DPO[name]
    assert found(row, "dpo").convert(row) == PAIR


def test_a_preference_keeps_earlier_turns_in_its_prompt():
    turns = [system("S"), user("q"), assistant("a"), user("Q")]
    row = {"chosen": [*turns, assistant("A")], "rejected": [*turns, assistant("B")]}
    assert found(row, "dpo").convert(row) == PAIR | {"prompt": turns}


KTO = {
    "trl": {"prompt": "Q", "completion": "A", "label": True},
    "messages": {"messages": [user("Q"), assistant("A")], "label": True},
    "llama-factory": {"instruction": "Q", "output": "A", "kto_tag": True},
    "llama-factory sharegpt": {
        "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}],
        "kto_tag": "true",
    },
}


@pytest.mark.parametrize("name", KTO)
def test_labelled_answers_are_recognised(name):
    row = KTO[name]
    assert found(row, "kto").convert(row) == GOOD


@pytest.mark.parametrize("label", [False, "false", "False", 0, "0", 0.0, "bad", " BAD "])
def test_a_label_may_say_bad_in_many_ways(label):
    row = KTO["trl"] | {"label": label}
    assert found(row, "kto").convert(row) == BAD


@pytest.mark.parametrize("label", ["maybe", None, 2, "", 0.5])
def test_a_label_that_says_neither_is_no_label(label):
    row = KTO["trl"] | {"label": label}
    with pytest.raises(RowError, match="neither true nor false"):
        found(KTO["trl"], "kto").convert(row)


def test_sft_leaves_out_answers_that_are_labelled_bad():
    shape = found(KTO["trl"])
    assert shape.kind == "sft"
    assert "good answers are used" in shape.reason
    with pytest.raises(RowError, match="labelled bad"):
        shape.convert(KTO["trl"] | {"label": False})


# Why


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("alpaca", "Columns instruction, input and output are Alpaca's."),
        ("question, answer", "Columns question and answer are a question and its answer."),
        (
            "pubmedqa",
            "Columns QUESTION and LONG_ANSWER are a question and its answer, and CONTEXTS is added "
            "to the prompt. Not used: final_decision.",
        ),
        ("sharegpt", "Column conversations holds conversations: ShareGPT's from and value."),
        ("messages", "Column messages holds conversations: messages with role and content."),
        (
            "dpo, chosen",
            "Columns chosen and rejected are a preferred and a rejected answer; for objective=sft "
            "the chosen answers are used.",
        ),
    ],
)
def test_the_reason_is_a_sentence(name, reason):
    assert found(SFT[name][0]).reason == reason


def test_columns_are_reported_by_what_they_are():
    shape = found(SFT["alpaca with history and system"][0])
    assert shape.columns == {
        "system": ["system"],
        "history": ["history"],
        "prompt": ["instruction"],
        "answer": ["output"],
    }


# Never guessed


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "Q", "answer": "A", "response": "R"}, "response and answer could each be"),
        ({"instruction": "I", "question": "Q", "answer": "A"}, "--map prompt=question"),
        ({"text": "T", "label": 1}, "--map text=text, or --map prompt=text --map answer=label"),
        ({"text": "T", "sentiment": "x", "id": 1}, "--map prompt=text --map answer=sentiment"),
        ({"one": [user("Q")], "two": [user("Q")]}, "one and two all hold conversations"),
        ({"prompt": "Q", "text": "T", "content": "C"}, "not recognised: prompt, text, content"),
        ({"document": "D", "text": "T", "summary": "S"}, "not recognised"),
        ({"foo": 1, "bar": 2}, "not recognised: foo, bar"),
        ({}, "not recognised: none"),
    ],
)
def test_two_readings_are_a_question_not_a_choice(row, said):
    with pytest.raises(DatasetError, match=re.escape(said)):
        found(row)


def test_unknown_columns_come_with_the_mapping_to_give():
    row = {"Nr": 1, "Ticket question": "Why is it late?", "Our long reply": "Because of the snow."}
    with pytest.raises(DatasetError) as error:
        found(row)
    assert str(error.value) == (
        "rows.csv: its columns are not recognised: Nr, Ticket question, Our long reply. "
        'Say which is what, for example --map "prompt=Ticket question" '
        '--map "answer=Our long reply"'
    )


def test_hundreds_of_columns_do_not_fill_the_sentence():
    with pytest.raises(DatasetError) as error:
        found({f"column{n}": "x" for n in range(500)})
    assert "and 460 more" in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("objective", "row", "said"),
    [
        ("dpo", {"question": "Q", "answer": "A"}, "columns chosen and rejected"),
        ("dpo", KTO["trl"], "Set objective to kto"),
        ("dpo", {"text": "T", "label": 0}, "objective=dpo learns from pairs"),
        ("kto", {"question": "Q", "answer": "A"}, "columns prompt, completion and label"),
        ("kto", DPO["strings"], "Set objective to dpo"),
    ],
)
def test_data_of_another_objective_says_what_is_needed(objective, row, said):
    with pytest.raises(DatasetError, match=re.escape(said)):
        found(row, objective)


# Mapped


TICKET = {"Kind": "K", "Subject": "S", "Body, full": "B", "Reply": ["A", "", "Bye"]}


@pytest.mark.parametrize(
    ("mapping", "messages"),
    [
        ({"prompt": "Subject,Kind", "answer": "Reply"}, [user("S\n\nK"), assistant("A\n\nBye")]),
        ({"prompt": ["Subject", "Kind"], "answer": ["Kind"]}, [user("S\n\nK"), assistant("K")]),
        ({"prompt": "Body, full", "answer": "reply "}, [user("B"), assistant("A\n\nBye")]),
        (
            {"system": "Kind", "prompt": "subject", "answer": "Reply,Kind"},
            [system("K"), user("S"), assistant("A\n\nBye\n\nK")],
        ),
        ({"prompt": "Subject"}, [user("S"), assistant("A\n\nBye")]),
    ],
)
def test_any_column_can_be_mapped_to_any_part(mapping, messages):
    assert found(TICKET, **mapping).convert(TICKET) == {"messages": messages}


def test_a_mapped_system_prompt_is_added_to_what_is_recognised():
    row = {"persona": "P", "question": "Q", "answer": "A"}
    shape = found(row, system="persona")
    assert shape.convert(row) == {"messages": [system("P"), user("Q"), assistant("A")]}


@pytest.mark.parametrize(
    ("objective", "mapping", "row", "expected"),
    [
        ("sft", {"text": "Subject,Kind"}, TICKET, {"text": "S\n\nK"}),
        ("sft", {"messages": "log"}, {"log": [user("Q"), assistant("A")]}, QA),
        ("dpo", {"chosen": "x", "rejected": "y"}, {"prompt": "Q", "x": "A", "y": "B"}, PAIR),
        ("dpo", {"prompt": "p"}, {"p": "Q", "x": "A"}, DatasetError),
        ("kto", {"label": "ok"}, {"prompt": "Q", "completion": "A", "ok": "good"}, GOOD),
        ("sft", {"label": "ok"}, {"prompt": "Q", "completion": "A", "ok": "good"}, QA),
    ],
)
def test_every_kind_of_example_can_be_mapped(objective, mapping, row, expected):
    if expected is DatasetError:
        with pytest.raises(DatasetError):
            found(row, objective, **mapping)
    else:
        assert found(row, objective, **mapping).convert(row) == expected


def test_a_mapping_of_columns_that_are_not_there_names_them_all_and_the_nearest():
    with pytest.raises(DatasetError) as error:
        found(TICKET, prompt="Subjekt", answer="Repply", persona="x")
    assert error.value.problems == [
        "columns.prompt=Subjekt is not a column of rows.csv, which has Kind, Subject, Body, full, "
        "Reply. Did you mean Subject?",
        "columns.answer=Repply is not a column of rows.csv, which has Kind, Subject, Body, full, "
        "Reply. Did you mean Reply?",
        "columns.persona is not something a column can be. There are system, prompt, answer, "
        "text, messages, chosen, rejected and label.",
    ]


def test_half_a_mapping_asks_for_the_other_half():
    with pytest.raises(DatasetError, match="leaves open which column is the answer"):
        found({"one": "Q", "two": "A"}, prompt="one")
