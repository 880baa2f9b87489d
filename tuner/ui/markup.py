"""Pieces of HTML. Whatever comes from data, models or people is escaped here, and nowhere else."""

from collections.abc import Iterable, Sequence
from html import escape


def element(tag: str, text: str = "", *, inner: str = "", **attributes: str) -> str:
    """One element; `text` is escaped, `inner` is HTML already.

    >>> element("p", "a < b", class_="note")
    '<p class="note">a &lt; b</p>'
    """
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for name, value in attributes.items()
    )
    return f"<{tag}{given}>{escape(text)}{inner}</{tag}>"


def notes(sentences: Iterable[str], kind: str = "note") -> str:
    """Sentences under one another; kind is note, warning or problem."""
    marks = {"problem": "✕ ", "warning": "△ ", "note": ""}
    return "".join(
        element("p", marks[kind] + sentence, class_=f"tuner-{kind}") for sentence in sentences
    )


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Label and value in two columns."""
    rows = "".join(element("dt", label) + element("dd", value) for label, value in pairs)
    return element("dl", inner=rows, class_="tuner-figures")
