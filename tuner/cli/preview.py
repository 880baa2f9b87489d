"""`preview`: the rows as the model sees them, and what becomes of all of them."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.cli.answers import Answer
from tuner.cli.recipe_options import (
    BaseModelOption,
    DatasetOption,
    HardwareOption,
    JsonOption,
    MapOption,
    PresetOption,
    RecipeFileOption,
    RecipeOptions,
    SetOption,
    SkipBadRowsOption,
    recipe_from_options,
)
from tuner.data.data_report import where
from tuner.quantities import share
from tuner.recipe import Recipe

if TYPE_CHECKING:
    from tuner.data.preview import Preview, RowPreview, Token

TRAINED_COLOUR, PLAIN = "\x1b[1;36m", "\x1b[0m"
TRAINED_MARKS = ("▕", "▏")  # where there are no colours
BAR_WIDTH = 40


def preview(
    preset: PresetOption = None,
    hardware: HardwareOption = "builtin",
    recipe: RecipeFileOption = None,
    base_model: BaseModelOption = None,
    dataset: DatasetOption = None,
    columns: MapOption = None,
    settings: SetOption = None,
    skip_bad_rows: SkipBadRowsOption = False,
    row: Annotated[int, typer.Option("--row", min=1, help="The first row to show.")] = 1,
    rows: Annotated[
        int | None,
        typer.Option("--rows", min=1, help="How many rows to show; 1, or 3 with --json."),
    ] = None,
    draw: Annotated[bool, typer.Option("--random", help="Show rows drawn at random.")] = False,
    as_json: JsonOption = False,
) -> Answer:
    """Show the rows as the model sees them.

    Every token, which of them train, the stop token; and for the whole data set what is kept, cut
    off by max_length, left out and why.
    """
    options = RecipeOptions(
        preset, hardware, recipe, base_model, dataset, columns or (), settings or (), skip_bad_rows
    )
    wanted = recipe_from_options(options)
    print(f"Reading {wanted.dataset.source}", file=sys.stderr)
    shown = preview_of(wanted, None if draw else row, rows or (3 if as_json else 1))
    return Answer(shown, preview_text(shown, colour=sys.stdout.isatty()))


def preview_of(recipe: Recipe, first_row: int | None, rows: int) -> "Preview":
    """Preview the recipe's data."""
    # Here, because `runs` has no use for them, and the tokenizer imports transformers.
    from datasets import disable_progress_bars

    from tuner.service.previewing import preview_document

    disable_progress_bars()
    return preview_document(recipe, first_row, rows)


def preview_text(shown: "Preview", colour: bool) -> str:
    """The whole answer for a person."""
    parts = [
        f"{shown['source']}: {shown['recognised']['reason']}",
        "\n".join(_numbers(shown)),
        _histogram(shown),
        *(_row(example, colour) for example in shown["examples"]),
        "\n".join(shown["notes"] + shown["warnings"]),
    ]
    return "\n\n".join(filter(None, parts))


def _numbers(shown: "Preview") -> list[str]:
    lines = [
        f"{shown['rows']:,} rows · {shown['kept']:,} kept "
        f"({shown['train_rows']:,} train, {shown['eval_rows']:,} held out) · "
        f"{share(shown['trained_tokens'], shown['tokens'])} of {shown['tokens']:,} tokens trained"
    ]
    if shown["truncated"]:
        lines.append(
            f"truncated {_rows(shown['truncated'])} by {shown['cut_tokens']:,} tokens in all "
            f"(max_length {shown['max_length']:,}, longest {shown['length']['max']:,})"
        )
    for reason, entry in shown["dropped_reasons"].items():
        lines.append(f"dropped {entry['count']:,}: {reason} ({where(entry)})")
    if shown["duplicates"]:
        lines.append(f"left out {shown['duplicates']:,} duplicates")
    if shown["not_drawn"]:
        lines.append(f"left out {shown['not_drawn']:,} rows beyond dataset.max_rows")
    return lines


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _histogram(shown: "Preview") -> str:
    """Rows by length; the mark stands where max_length cuts."""
    counts, edges = shown["length_histogram"]["counts"], shown["length_histogram"]["edges"]
    length, limit = shown["length"], shown["max_length"]
    tallest, width = max(counts), len(f"{edges[-1]:,}")
    head = (
        f"tokens a row: shortest {length['min']:,}, median {length['median']:,}, "
        f"95% up to {length['p95']:,}, longest {length['max']:,}; max_length {limit:,}"
    )
    lines = [head]
    for count, start, end in zip(counts, edges, edges[1:], strict=False):
        bar = "█" * round(BAR_WIDTH * count / tallest) + " " if count else ""
        cut = "  ← max_length" if start <= limit < end else ""
        lines.append(f"  {start:>{width},}–{end:<{width},} {bar}{count:,}{cut}")
    return "\n".join(lines)


def _row(example: "RowPreview", colour: bool) -> str:
    side = "held out" if example["side"] == "eval" else "train"
    head = f"row {example['row']:,} · {example['file']} line {example['line']:,} · {side}"
    lines = [head, marked(example["tokens"], colour)]
    if example["rejected"]:
        lines.append(f"rejected: {marked(example['rejected'], colour)}")
    return "\n".join([*lines, _ending(example)])


def _ending(example: "RowPreview") -> str:
    if example["problem"]:
        return f"This row does not train: {example['problem']}."
    trained = sum(token["trained"] for token in example["tokens"])
    stop = example["stop_token"]
    parts = [
        f"{trained:,} of {len(example['tokens']):,} tokens trained",
        f"stop token {stop}" if stop else "no stop token: it was cut off",
    ]
    if example["cut_tokens"]:
        parts.append(f"{example['cut_tokens']:,} tokens cut off")
    return " · ".join(parts)


def marked(tokens: "list[Token]", colour: bool) -> str:
    """The text with its trained parts marked.

    >>> tokens = [("Hi", False), ("Hello", True), ("!", True)]
    >>> marked([{"id": 0, "text": text, "trained": on} for text, on in tokens], colour=False)
    'Hi▕Hello!▏'
    """
    begin, end = (TRAINED_COLOUR, PLAIN) if colour else TRAINED_MARKS
    text, inside = "", False
    for token in tokens:
        if token["trained"] != inside:
            text += begin if token["trained"] else end
        inside = token["trained"]
        text += token["text"]
    return text + (end if inside else "")
