"""Pieces of HTML: whatever comes from outside is text in them."""

from html.parser import HTMLParser

import pytest

from tuner.ui.markup import element, facts, notes

HOSTILE = [
    "<script>alert(1)</script>",
    "</p><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" x=\'',
    "' onmouseover='alert(1)",
    "&lt;b&gt; &amp; &#60;",
    "a < b & c > d",
    "\x00\x07 \ufeff",
]


class Reader(HTMLParser):
    """What a browser would make of it."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.attributes = [], "", []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("text", HOSTILE)
def test_text_stays_text(text):
    for html, tags in [
        (element("p", text), ["p"]),
        (notes([text]), ["p"]),
        (notes([text], "problem"), ["p"]),
        (facts([(text, text)]), ["dl", "dt", "dd"]),
    ]:
        read = Reader(html)
        assert read.tags == tags
        assert text in read.text


@pytest.mark.parametrize("text", HOSTILE)
def test_an_attribute_stays_one(text):
    read = Reader(element("p", title=text, class_="note"))
    assert read.attributes == [("title", text), ("class", "note")]


def test_inner_html_is_taken_as_it_is_after_the_text():
    html = element("p", "a < b", inner=element("b", "!"), aria_label="c")
    assert html == '<p aria-label="c">a &lt; b<b>!</b></p>'


def test_sentences_stand_under_one_another_with_the_mark_of_their_kind():
    assert notes([]) == ""
    assert notes(["One.", "Two."], "problem") == (
        '<p class="tuner-problem">✕ One.</p><p class="tuner-problem">✕ Two.</p>'
    )
    assert notes(["One."], "warning") == '<p class="tuner-warning">△ One.</p>'
    assert notes(["One."]) == '<p class="tuner-note">One.</p>'


def test_facts_are_pairs_in_order():
    html = facts([("Memory", "1 GB"), ("Time", "2 s")])
    assert html.startswith("<dl ") and html.endswith(
        "><dt>Memory</dt><dd>1 GB</dd><dt>Time</dt><dd>2 s</dd></dl>"
    )
