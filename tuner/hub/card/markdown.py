"""
Text of others inside Markdown: it stays text, whatever is in it, and no longer than a card bears.

    text("<b>*hi*</b>")     → &lt;b&gt;\\*hi\\*&lt;/b&gt;
    fenced("```\nx\n```")   → a block whose fence is longer than any inside

What a model answers, what a data set is called, what somebody wrote as system prompt: all of it is
shown on a web page, where Markdown may hold HTML.
"""

import re
from collections.abc import Sequence

LINE, BLOCK = 300, 700  # characters of one line and of one block of somebody's text
MORE = " …"
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
SPECIAL = re.compile(r"[&<>\\`*_\[\]|~$]")
# Control characters, and those that turn the direction of what follows.
INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def cleaned(value: str) -> str:
    """Without control characters and halves of characters; line breaks stay."""
    whole = value.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", "replace").decode()
    return INVISIBLE.sub("", whole)


def shortened(value: str, limit: int) -> str:
    """At most `limit` characters, with a mark where something was cut.

    >>> shortened("abcdef", 4)
    'abcd …'
    """
    return value if len(value) <= limit else value[:limit].rstrip() + MORE


def one_line(value: str, limit: int = LINE) -> str:
    """Text as one line, for places with an escape of their own.

    >>> one_line(" a\\n b ")
    'a b'
    """
    return shortened(" ".join(cleaned(value).split()), limit)


def text(value: str, limit: int = LINE) -> str:
    """Text inside a sentence.

    >>> text("a_b <i>")
    'a\\\\_b &lt;i&gt;'
    """
    return SPECIAL.sub(
        lambda found: ENTITIES.get(found[0], f"\\{found[0]}"), one_line(value, limit)
    )


def code(value: str, limit: int = LINE) -> str:
    """Text as a code span.

    >>> code("a`b")
    '``a`b``'
    """
    line = one_line(value, limit)
    fence = "`" * (_longest(line, "`", 0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def fenced(content: str, language: str = "") -> str:
    """A block of code; its fence is longer than any in it."""
    content = cleaned(content).strip("\n")
    fence = "`" * max(3, _longest(content, "`", 0) + 1)
    return f"{fence}{language}\n{content}\n{fence}"


def quoted(content: str, limit: int = BLOCK) -> str:
    """Somebody's words as a block, cut to what a reader takes in."""
    return fenced(shortened(cleaned(content).strip(), limit) or "(nothing)", "text")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def section(title: str, *parts: str, level: int = 2) -> str:
    """A heading and what stands below it; nothing where nothing does."""
    body = [part for part in parts if part]
    return "\n\n".join([f"{'#' * level} {title}", *body]) if body else ""


def _cell(cell: str) -> str:
    # Bars part cells even inside code; those of text() are escaped already.
    return re.sub(r"(?<!\\)\|", r"\\|", cell)


def _longest(content: str, mark: str, least: int) -> int:
    return max((len(run) for run in re.findall(f"{re.escape(mark)}+", content)), default=least)
