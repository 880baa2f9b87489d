"""
A data set on the page: what was recognised, what becomes of its rows, and rows as the model sees
them, every trained token marked. From a Preview (data/preview.py) to words and HTML.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from tuner.data.columns import ROLES, Columns
from tuner.data.data_report import where
from tuner.quantities import share
from tuner.service.previewing import Look
from tuner.ui.markup import element, notes
from tuner.ui.words import all_in_page_words

if TYPE_CHECKING:
    from tuner.data.preview import Preview, RowPreview, Token

ROLES_OF = {
    "sft": ("system", "prompt", "answer", "messages", "text"),
    "dpo": ("system", "prompt", "chosen", "rejected"),
    "kto": ("system", "prompt", "answer", "label"),
}
CHART_WIDTH, CHART_HEIGHT = 600, 90
LOST = "Left out:"  # a report's own words about lost rows; lost_rows says it by line
STOP_MARK = element("span", "■", class_="tuner-stop", title="the model learns to stop here")


def report_html(look: Look) -> str:
    """What was recognised and what becomes of the rows, or why nothing can be trained on."""
    shown = look["preview"]
    if shown is None:
        return notes(all_in_page_words(look["problems"]), "problem") + raw_rows_html(look)
    return "".join(
        [
            element("p", f"{shown['source']}: {shown['recognised']['reason']}"),
            element("p", " · ".join(numbers(shown)), class_="tuner-numbers"),
            histogram_html(shown),
            notes(lost_rows(shown), "warning"),
            notes([told for told in shown["warnings"] if not told.startswith(LOST)], "warning"),
            notes(shown["notes"]),
        ]
    )


def numbers(shown: "Preview") -> list[str]:
    """The data set in figures."""
    found = [
        f"{shown['rows']:,} rows",
        f"{shown['kept']:,} kept",
        f"{shown['train_rows']:,} train, {shown['eval_rows']:,} held out",
        f"{share(shown['trained_tokens'], shown['tokens'])} of {shown['tokens']:,} tokens trained",
        f"longest {shown['length']['max']:,} of {shown['max_length']:,} tokens",
    ]
    if shown["truncated"]:
        found.append(f"{shown['truncated']:,} cut by {shown['cut_tokens']:,} tokens in all")
    if shown["duplicates"]:
        found.append(f"{shown['duplicates']:,} duplicates left out")
    return found


def lost_rows(shown: "Preview") -> list[str]:
    """Rows that are not used, by reason and line."""
    found = [
        f"Left out {entry['count']:,}: {reason} ({where(entry)})."
        for reason, entry in shown["dropped_reasons"].items()
    ]
    if shown["not_drawn"]:
        found.append(f"Left out {shown['not_drawn']:,} rows beyond dataset.max_rows.")
    return found


def histogram_html(shown: "Preview") -> str:
    """Rows by length, with a line where max_length cuts."""
    counts, edges = shown["length_histogram"]["counts"], shown["length_histogram"]["edges"]
    first, last = edges[0], max(edges[-1], edges[0] + 1)
    wide = (last - first) / len(counts)  # the edges themselves are rounded to whole tokens
    limit = shown["max_length"]
    right = max(last, min(limit, 2 * last))  # a far limit would press the bars together

    def at(length: float) -> float:
        return (length - first) / (right - first)

    bars = "".join(
        _bar(count / max(counts), at(first + wide * place), at(first + wide * (place + 1)))
        for place, count in enumerate(counts)
        if count
    )
    words = (
        f"Tokens a row: shortest {shown['length']['min']:,}, median {shown['length']['median']:,}, "
        f"95% up to {shown['length']['p95']:,}, longest {shown['length']['max']:,}. "
        f"Max length is {limit:,}."
    )
    drawing = element(
        "svg",
        inner=bars + _limit_line(at(limit)),
        viewBox=f"0 0 {CHART_WIDTH} {CHART_HEIGHT}",
        role="img",
        aria_label=words,
        preserveAspectRatio="none",
        class_="tuner-histogram",
    )
    return element("figure", inner=drawing + element("figcaption", words))


def rows_html(examples: "Sequence[RowPreview]") -> str:
    """Rows as the model sees them."""
    return "".join(map(row_html, examples))


def row_html(example: "RowPreview") -> str:
    """One row: where it comes from, its tokens, how it ends."""
    side = "held out" if example["side"] == "eval" else "train"
    head = f"row {example['row']:,} · {example['file']} line {example['line']:,} · {side}"
    stops = example["stop_token"] is not None
    body = element("pre", inner=tokens_html(example["tokens"], stops), class_="tuner-tokens")
    if example["rejected"]:
        body += element("p", "rejected answer:") + element(
            "pre", inner=tokens_html(example["rejected"], stops), class_="tuner-tokens"
        )
    return element(
        "article",
        inner=element("h4", head) + body + element("p", ending(example), class_="tuner-note"),
        class_="tuner-example",
    )


def tokens_html(tokens: "Sequence[Token]", stops: bool) -> str:
    """Text with its trained stretches marked.

    Args:
        stops: The last trained token is one that stops: it carries the mark. An answer that
            max_length cuts off teaches no stopping.
    """
    trained_at = [at for at, token in enumerate(tokens) if token["trained"]]
    stop = trained_at[-1] if stops and trained_at else None
    pieces = []
    for trained, group in groupby(enumerate(tokens), lambda pair: pair[1]["trained"]):
        members = list(group)
        text = "".join(token["text"] for _, token in members)
        if not trained:
            pieces.append(element("span", text))
            continue
        mark = STOP_MARK if members[-1][0] == stop else ""
        pieces.append(element("mark", text, inner=mark, title=f"{len(members)} trained tokens"))
    return "".join(pieces)


def ending(example: "RowPreview") -> str:
    """How a row ends, in words."""
    if example["problem"]:
        return f"This row does not train: {example['problem'].rstrip('.')}."
    trained = sum(token["trained"] for token in example["tokens"])
    words = f"{trained:,} of {len(example['tokens']):,} tokens trained"
    if example["cut_tokens"]:
        return f"{words}; max_length cuts off {example['cut_tokens']:,} tokens."
    if example["stop_token"]:
        return f"{words}; the answer ends on {example['stop_token']}."
    return f"{words}."


def raw_rows_html(look: Look) -> str:
    """The first rows as they are in the file, for whoever has to say which column is which."""
    if not look["rows"]:
        return ""
    head = "".join(element("th", name, scope="col") for name in look["columns"])
    body = "".join(
        element("tr", inner="".join(element("td", row[name]) for name in look["columns"]))
        for row in look["rows"]
    )
    table = element("table", inner=element("tr", inner=head) + body)
    return element("div", inner=table, class_="tuner-raw-rows", tabindex="0")


def mapping(look: Look, columns: dict[str, Any], objective: str) -> dict[str, list[str]]:
    """Role → columns to show in the mapping row: what is used; before that, what was asked for.

    Args:
        columns: The recipe's; where the data is recognised, that has them already.
    """
    shown, table = look["preview"], Columns(look["columns"])
    chosen = shown["recognised"]["columns"] if shown else columns
    return {
        role: table.all_of(_listed(chosen.get(role), table))
        for role in ROLES
        if role in ROLES_OF[objective]
    }


def suggestion_words(suggestion: dict[str, list[str]]) -> str:
    """ "Use prompt ← question, answer ← reply" """
    return "Use " + ", ".join(
        f"{role} ← {' and '.join(names)}" for role, names in suggestion.items()
    )


def _listed(value: Any, table: Columns) -> list[str]:
    if isinstance(value, str):  # a column may have a comma in its own name
        return [value] if table.find(value) else value.split(",")
    return [str(name) for name in value or []]


def _bar(height: float, left: float, right: float) -> str:
    tall = max(2.0, height * (CHART_HEIGHT - 6))
    return element(
        "rect",
        x=f"{left * CHART_WIDTH:.1f}",
        y=f"{CHART_HEIGHT - tall:.1f}",
        width=f"{max(1.0, (right - left) * CHART_WIDTH - 1):.1f}",
        height=f"{tall:.1f}",
    )


def _limit_line(at: float) -> str:
    if at > 1:
        return ""
    x = f"{max(0.0, at) * CHART_WIDTH:.1f}"
    return element("line", x1=x, x2=x, y1="0", y2=str(CHART_HEIGHT))
