"""Long texts are cut where a reader would cut them, and nothing of them is lost."""

import re

import pytest

from tuner.data.documents import document_spans, split_document

TEXT = "\n\n".join(
    f"Paragraph {n} begins here. " + "It has a sentence or two. " * (n % 7) + "\nAnd a second line."
    for n in range(60)
)


@pytest.mark.parametrize("size", [10, 40, 100, 1000, 10_000])
def test_no_piece_is_too_long_and_all_words_are_kept_in_order(size):
    pieces = split_document(TEXT, size)
    assert all(0 < len(piece) <= size for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(TEXT.split())


def test_pieces_end_where_paragraphs_do_if_they_fit():
    paragraphs = set(TEXT.split("\n\n"))
    for piece in split_document(TEXT, 400):
        assert {part.strip() for part in piece.split("\n\n")} <= {p.strip() for p in paragraphs}


def test_a_long_paragraph_is_cut_between_sentences():
    pieces = split_document("This is one sentence. " * 20, 50)
    assert all(piece.endswith("sentence.") for piece in pieces)


def test_a_word_without_end_is_cut_rather_than_lost():
    assert split_document("x" * 25, 10) == ["x" * 10, "x" * 10, "x" * 5]


def test_chinese_is_cut_after_its_own_full_stop():
    assert split_document("今天天气很好。我们去公园。", 8) == ["今天天气很好。", "我们去公园。"]


def test_a_short_text_stays_whole_and_blank_text_is_none():
    assert split_document("  indented\n\ncode", 100) == ["  indented\n\ncode"]
    assert split_document(" \n\n ", 100) == []


def test_spans_say_where_in_the_text_a_piece_stands():
    for start, end in document_spans(TEXT, 80):
        assert not re.match(r"\s*\n|.*\s$", TEXT[start:end], re.DOTALL)
