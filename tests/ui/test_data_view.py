"""Data on the page: every token where it is, figures as they are, and text that stays text."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest

from tuner.recipe import make_recipe
from tuner.service.previewing import look, no_look
from tuner.ui.data_view import (
    CHART_HEIGHT,
    CHART_WIDTH,
    STOP_MARK,
    ending,
    histogram_html,
    lost_rows,
    mapping,
    numbers,
    raw_rows_html,
    report_html,
    row_html,
    rows_html,
    tokens_html,
)

HOSTILE = "<script>alert(1)</script> & \"quoted\" 'single' </mark></pre><img src=x onerror=y>"


class Reader(HTMLParser):
    """What a browser would make of it: elements with their attributes and text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text: dict[str, str] = {}
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()
        assert self.open == [], "an element is not closed"

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        self.attributes.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in self.open:
            self.text[tag] = self.text.get(tag, "") + data

    def of(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.attributes if name == tag]


def token(text: str, trained: bool = False) -> dict[str, Any]:
    return {"id": len(text), "text": text, "trained": trained}


def row(tokens: list[dict[str, Any]], **changes: Any) -> Any:
    return {
        "row": 1234,
        "side": "train",
        "file": "support.csv",
        "line": 1235,
        "tokens": tokens,
        "rejected": None,
        "stop_token": None,
        "cut_tokens": 0,
        "problem": None,
    } | changes


def shown(counts: list[int], edges: list[int], limit: int, **changes: Any) -> Any:
    length = {"min": edges[0], "median": edges[len(edges) // 2], "p95": edges[-1]}
    return {
        "source": "support.csv",
        "recognised": {"format": "pair", "reason": "As such.", "columns": {}, "all_columns": []},
        "rows": 1500,
        "kept": sum(counts),
        "train_rows": 1200,
        "eval_rows": 60,
        "truncated": 0,
        "cut_tokens": 0,
        "dropped": 0,
        "dropped_reasons": {},
        "duplicates": 0,
        "not_drawn": 0,
        "max_length": limit,
        "length": {**length, "max": edges[-1]},
        "length_histogram": {"counts": counts, "edges": edges},
        "tokens": 40_000,
        "trained_tokens": 10_000,
        "notes": [],
        "warnings": [],
        "examples": [],
    } | changes


def found_in(preview: Any, **changes: Any) -> Any:
    return {**no_look([]), "preview": preview} | changes


# Tokens.


def test_trained_tokens_are_marked_and_joined_and_the_others_are_not():
    tokens = [token("Hi "), token("there"), token("yes", True), token("!", True), token("\n")]
    html = tokens_html(tokens, stops=True)
    assert re.findall(r"<span>(.*?)</span>", html, re.DOTALL) == ["Hi there", "\n"]
    assert '<mark title="2 trained tokens">yes!' in html
    assert Reader(html).text["mark"].startswith("yes!")


def test_the_stop_mark_stands_after_the_last_trained_token_only():
    tokens = [token("a", True), token("b"), token("c", True), token("d", True), token("e")]
    html = tokens_html(tokens, stops=True)
    assert html.count(STOP_MARK) == 1
    assert f">cd{STOP_MARK}</mark><span>e</span>" in html


def test_a_row_in_which_nothing_trains_has_no_mark():
    html = tokens_html([token("a"), token("b")], stops=True)
    assert html == "<span>ab</span>"
    assert tokens_html([], stops=True) == ""


@pytest.mark.parametrize("trained", [True, False])
def test_the_text_of_tokens_is_text_even_across_tokens(trained):
    pieces = [token(piece, trained) for piece in (HOSTILE[:4], HOSTILE[4:9], HOSTILE[9:])]
    read = Reader(tokens_html(pieces, stops=True))
    tag = "mark" if trained else "span"
    assert read.text[tag].startswith(HOSTILE)
    assert set(read.tags) <= {"mark", "span"}


def test_a_row_says_where_it_comes_from_and_how_it_ends():
    read = Reader(row_html(row([token("a"), token("b", True)], stop_token="</s>")))
    assert read.text["h4"] == "row 1,234 · support.csv line 1,235 · train"
    assert read.text["p"] == "1 of 2 tokens trained; the answer ends on </s>."
    assert Reader(row_html(row([], side="eval"))).text["h4"].endswith("held out")


def test_a_pair_shows_the_rejected_answer_below_the_chosen_one():
    html = row_html(row([token("yes", True)], rejected=[token("no", True)]))
    assert html.index("yes") < html.index("rejected answer:") < html.index(">no")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stop_token": "<|im_end|>"}, "1 of 2 tokens trained; the answer ends on <|im_end|>."),
        ({"cut_tokens": 1200}, "1 of 2 tokens trained; max_length cuts off 1,200 tokens."),
        ({}, "1 of 2 tokens trained."),
        ({"problem": "it is empty"}, "This row does not train: it is empty."),
        ({"problem": "It is empty."}, "This row does not train: It is empty."),
    ],
)
def test_how_a_row_ends_is_a_sentence(changes, words):
    assert ending(row([token("a"), token("b", True)], **changes)) == words


def test_nothing_that_a_row_says_becomes_html():
    hostile = row(
        [token(HOSTILE), token(HOSTILE, True)],
        file=HOSTILE,
        rejected=[token(HOSTILE, True)],
        stop_token=HOSTILE,
        side=HOSTILE,
    )
    read = Reader(rows_html([hostile, row([], problem=HOSTILE)]))
    assert {"script", "img"}.isdisjoint(read.tags)
    assert HOSTILE in read.text["h4"] and HOSTILE in read.text["p"]


# Figures.


def test_the_data_in_figures():
    whole = shown([1260], [10, 500], 1024, truncated=3, cut_tokens=1800, duplicates=4)
    assert numbers(whole) == [
        "1,500 rows",
        "1,260 kept",
        "1,200 train, 60 held out",
        "25% of 40,000 tokens trained",
        "longest 500 of 1,024 tokens",
        "3 cut by 1,800 tokens in all",
        "4 duplicates left out",
    ]
    assert len(numbers(shown([1], [1, 2], 8))) == 5


def test_rows_that_are_left_out_are_told_by_reason_and_line():
    reasons = {"the answer is empty": {"count": 1200, "lines": [3, 7]}}
    told = lost_rows(shown([1], [1, 2], 8, dropped_reasons=reasons, not_drawn=2000))
    assert told[0].startswith("Left out 1,200: the answer is empty (")
    assert "3" in told[0] and "7" in told[0]
    assert told[1] == "Left out 2,000 rows beyond dataset.max_rows."
    assert lost_rows(shown([1], [1, 2], 8)) == []


CHARTS = {
    "usual": ([4, 0, 9, 1], [10, 20, 30, 40, 50], 30),
    "nothing cut": ([4, 9], [10, 20, 30], 40),
    "a far limit": ([4, 9], [10, 20, 30], 4096),
    "a limit at the longest": ([4, 9], [10, 20, 30], 30),
    "a limit below the shortest": ([4, 9], [100, 200, 300], 50),
    "all the same": ([7], [50, 50], 64),
    "edges that were rounded": ([1, 2, 0, 3], [40, 40, 40, 41, 41], 64),
    "all the same in many bins": ([*[0] * 10, 7, *[0] * 9], [50] * 21, 50),
    "one token": ([7], [1, 1], 8),
    "no rows": ([0], [0, 0], 8),
}


@pytest.mark.parametrize(("counts", "edges", "limit"), CHARTS.values(), ids=CHARTS.keys())
def test_every_bar_and_the_limit_are_inside_the_drawing(counts, edges, limit):
    read = Reader(histogram_html(shown(counts, edges, limit)))
    bars = [{name: float(value) for name, value in bar.items()} for bar in read.of("rect")]
    assert len(bars) == sum(count > 0 for count in counts)
    for bar in bars:
        assert bar["x"] >= 0 and bar["x"] + bar["width"] <= CHART_WIDTH
        assert bar["y"] >= 0 and bar["y"] + bar["height"] <= CHART_HEIGHT
    for left, right in pairwise(bars):
        assert left["x"] + left["width"] <= right["x"]
    for line in read.of("line"):
        assert 0 <= float(line["x1"]) <= CHART_WIDTH
        assert line["x1"] == line["x2"]


def test_the_limit_is_where_it_cuts_and_a_far_one_is_not_drawn():
    def line(limit: int) -> list[dict[str, Any]]:
        return Reader(histogram_html(shown([1, 1], [0, 50, 100], limit))).of("line")

    assert [float(found["x1"]) for found in line(25)] == [CHART_WIDTH / 4]
    assert [float(found["x1"]) for found in line(200)] == [CHART_WIDTH]
    assert line(201) == []


def test_the_tallest_bar_is_that_of_most_rows():
    read = Reader(histogram_html(shown([1, 100, 50], [0, 10, 20, 30], 40)))
    heights = [float(bar["height"]) for bar in read.of("rect")]
    assert heights[1] > heights[2] > heights[0] > 0
    assert heights[1] == pytest.approx(2 * heights[2], abs=0.2)


def test_the_drawing_is_told_in_words_too():
    read = Reader(histogram_html(shown([4, 9], [10, 1020, 2030], 4096)))
    [drawing] = read.of("svg")
    assert drawing["role"] == "img"
    assert drawing["aria-label"] == read.text["figcaption"]
    assert "longest 2,030" in drawing["aria-label"]
    assert drawing["aria-label"].endswith("Max length is 4,096.")


def test_a_report_has_what_was_recognised_the_figures_and_every_warning():
    whole = shown([1], [1, 2], 8, warnings=["Mind this."], notes=["By the way."])
    html = report_html(found_in(whole))
    assert "support.csv: As such." in html
    assert "1,500 rows · 1 kept" in html
    assert '<p class="tuner-warning">△ Mind this.</p>' in html
    assert '<p class="tuner-note">By the way.</p>' in html
    assert "<svg" in html


def test_nothing_that_a_report_says_becomes_html():
    recognised = {"format": "x", "reason": HOSTILE, "columns": {}, "all_columns": []}
    reasons = {HOSTILE: {"count": 1, "lines": [1]}}
    whole = shown(
        [1],
        [1, 2],
        8,
        source=HOSTILE,
        recognised=recognised,
        dropped_reasons=reasons,
        warnings=[HOSTILE],
        notes=[HOSTILE],
    )
    read = Reader(report_html(found_in(whole)))
    assert {"script", "img"}.isdisjoint(read.tags)
    assert read.text["p"].count(HOSTILE) == 5


# Data that is not recognised.


def test_data_that_is_not_recognised_shows_why_and_its_first_rows():
    odd = found_in(
        None,
        problems=["odd.csv: its columns are not recognised."],
        columns=["a", HOSTILE],
        rows=[{"a": "1", HOSTILE: HOSTILE}, {"a": "2", HOSTILE: ""}],
    )
    html = report_html(odd)
    assert html.startswith('<p class="tuner-problem">✕ odd.csv: its columns are not recognised.')
    read = Reader(html)
    assert (read.tags.count("th"), read.tags.count("td"), read.tags.count("tr")) == (2, 4, 3)
    assert {"script", "img"}.isdisjoint(read.tags)
    assert read.text["th"] == f"a{HOSTILE}"
    assert read.text["td"] == f"1{HOSTILE}2"


def test_data_that_cannot_be_opened_has_no_table():
    gone = no_look(["There is no gone.csv."])
    assert raw_rows_html(gone) == ""
    assert report_html(gone) == '<p class="tuner-problem">✕ There is no gone.csv.</p>'


# The mapping.

COLUMNS = ["System", "Question", "Reply, final", "chosen", "rejected", "label", "text"]


@pytest.mark.parametrize(
    ("objective", "roles"),
    [
        ("sft", ["system", "prompt", "answer", "text", "messages"]),
        ("dpo", ["system", "prompt", "chosen", "rejected"]),
        ("kto", ["system", "prompt", "answer", "label"]),
    ],
)
def test_the_roles_to_map_are_those_of_the_objective(objective, roles):
    found = mapping(found_in(None, columns=COLUMNS), {"chosen": ["chosen"]}, objective)
    assert list(found) == roles
    assert found.get("chosen", []) == (["chosen"] if objective == "dpo" else [])


@pytest.mark.parametrize(
    ("columns", "prompt", "answer"),
    [
        ({"prompt": "Question", "answer": ["Reply, final"]}, ["Question"], ["Reply, final"]),
        ({"answer": "Reply, final"}, [], ["Reply, final"]),
        ({"prompt": "Question,System"}, ["Question", "System"], []),
        ({"prompt": "question"}, ["Question"], []),
        ({"prompt": ["gone", "Question"]}, ["Question"], []),
        ({"prompt": None, "answer": []}, [], []),
        ({}, [], []),
    ],
)
def test_before_anything_is_recognised_the_mapping_is_what_was_asked_for(columns, prompt, answer):
    found = mapping(found_in(None, columns=COLUMNS), columns, "sft")
    assert (found["prompt"], found["answer"]) == (prompt, answer)


def test_once_something_is_recognised_the_mapping_is_what_is_used(tmp_path):
    path = tmp_path / "faq.jsonl"
    rows = [{"Question": f"{n}?", "context": "so", "answer": f"{n}."} for n in range(12)]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    for columns, prompt in [
        ({}, ["Question", "context"]),
        ({"prompt": "QUESTION"}, ["Question"]),
        ({"prompt": "context, question"}, ["context", "Question"]),
    ]:
        data = {"source": str(path), "columns": columns}
        found = look(make_recipe({"max_length": 128, "dataset": data}))
        shown = mapping(found, columns, "sft")
        assert (sorted(shown["prompt"]), shown["answer"]) == (sorted(prompt), ["answer"])


def test_rows_of_a_real_file_are_shown_as_they_are(tmp_path):
    path = tmp_path / "faq.jsonl"
    rows = [{"question": f"{HOSTILE} {n}?", "answer": f"{n}: {HOSTILE}"} for n in range(12)]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    found = look(make_recipe({"max_length": 512, "dataset": {"source": str(path)}}))
    read = Reader(report_html(found) + rows_html(found["preview"]["examples"]))
    assert {"script", "img"}.isdisjoint(read.tags)
    assert read.text["mark"].count(HOSTILE) == 10
    assert read.text["mark"].count("■") == 10


def test_an_answer_that_is_cut_off_has_no_stop_mark():
    assert "tuner-stop" not in tokens_html([token("a", trained=True)], stops=False)
