"""
What a recipe makes of its data, before anything trains: every token of a row, and whole numbers.

    preview(recipe, tokenizer)["examples"][0]["tokens"]
    [{"id": 7, "text": "Hi", "trained": False}, …]

The data is prepared and tokenized by the code that trains (prepare.py, tokenized.py), in a
temporary folder, so what is shown is what will be trained.
"""

import json
import random
import tempfile
from collections.abc import Sequence
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypedDict

from datasets import Dataset

from tuner.data.data_report import DataReport, Recognised
from tuner.data.prepare import Progress, load_examples, prepare_dataset
from tuner.data.rendering import IGNORE_INDEX, Rendered, Renderer
from tuner.data.stored import Side
from tuner.data.stored_tokens import FOLDER, hand_over, save_reports, tokens_mark, tokens_path
from tuner.data.tokenized import LINES_KEPT, TokenReport, require_trained_rows, tokenize
from tuner.errors import DatasetError
from tuner.recipe import Recipe

UNREADABLE = "the row cannot be read"
QUESTION_CHARACTERS = 300


class Token(TypedDict):
    """One token; the texts of a row's tokens joined are the text that the model sees.

    Attributes:
        text: Empty where an earlier token shows the same character.
    """

    id: int
    text: str
    trained: bool


class RowPreview(TypedDict):
    """One row as the model sees it.

    Attributes:
        row: 1-based; the rows that train come first, then those held out.
        side: "train" or "eval".
        file, line: Where it comes from.
        tokens: Prompt and answer; of a pair, the chosen answer.
        rejected: The rejected answer's tokens, of a pair.
        stop_token: The one that the answer ends on; None where max_length cut it off.
        cut_tokens: What max_length cut off.
        problem: Why the row does not train, else None.
    """

    row: int
    side: Side
    file: str
    line: int
    tokens: list[Token]
    rejected: list[Token] | None
    stop_token: str | None
    cut_tokens: int
    problem: str | None


class Preview(TypedDict):
    """A data set as a recipe trains it; `train_rows` and `eval_rows` add up to `kept`.

    Attributes:
        rows: Rows read, unreadable ones included.
        kept: Rows that train or are held out; `truncated` of them lose `cut_tokens` in all.
        dropped: Rows that cannot be used, by reason in `dropped_reasons` (count, first lines).
        duplicates: Rows that repeat an earlier one.
        not_drawn: Rows that dataset.max_rows leaves out.
        length: Tokens of a kept row before the cut: min, median, p95, max.
        length_histogram: `counts` between successive `edges`.
        trained_token_share: 0 to 1.
        warnings: What may be wrong, a sentence each.
    """

    source: str
    recognised: Recognised
    rows: int
    kept: int
    train_rows: int
    eval_rows: int
    truncated: int
    cut_tokens: int
    dropped: int
    dropped_reasons: dict[str, Any]
    duplicates: int
    not_drawn: int
    max_length: int
    length: dict[str, int]
    length_histogram: dict[str, list[int]]
    tokens: int
    trained_tokens: int
    trained_token_share: float
    stop_tokens: list[str]
    notes: list[str]
    warnings: list[str]
    examples: list[RowPreview]


def preview(
    recipe: Recipe,
    tokenizer: Any,
    *,
    first_row: int | None = None,
    rows: int = 3,
    token: str | None = None,
) -> Preview:
    """Prepare and tokenize a recipe's data, and show some rows of it.

    Args:
        tokenizer: The base model's, from load_tokenizer.
        first_row: 1-based; None draws rows at random.
        rows: How many to show.
        token: For private and gated Hub datasets; never stored.

    Raises:
        DatasetError: Training could not begin with this data, or there is no such row.
    """
    with closing(PreviewedData(recipe, tokenizer, token=token)) as data:
        return data.document(first_row, rows)


class PreviewedData:
    """A recipe's data, prepared and tokenized once; any of its rows can then be shown.

    Holds a temporary folder until it is closed.

    Args:
        progress: Called with the rows read, then with the rows tokenized.

    Raises:
        DatasetError: Training could not begin with this data.
    """

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: Any,
        *,
        token: str | None = None,
        progress: Progress | None = None,
    ):
        self._renderer = Renderer(tokenizer, recipe.max_length)
        self._folder = tempfile.TemporaryDirectory(prefix="tuner-preview-")
        directory = Path(self._folder.name)
        try:
            self._report = prepare_dataset(
                recipe.dataset,
                recipe.objective,
                directory,
                max_length=recipe.max_length,
                token=token,
                progress=progress,
            )
            self._sides = [load_examples(directory, "train"), load_examples(directory, "eval")]
            mark = tokens_mark(directory, self._renderer)  # while the tokenizer is as it was loaded
            self._tokens = [
                self._tokenized("train", self._sides[0], progress),
                self._tokenized("eval", self._sides[1], progress),
            ]
            require_trained_rows(self._tokens[0], recipe.max_length)
            reports: dict[Side, TokenReport] = {"train": self._tokens[0], "eval": self._tokens[1]}
            save_reports(directory / FOLDER, reports, mark)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the temporary folder."""
        self._folder.cleanup()

    def document(self, first_row: int | None, rows: int) -> Preview:
        """The whole data set in numbers, and some rows of it, as `preview` has them.

        Raises:
            DatasetError: There is no such row.
        """
        examples = _row_previews(self._sides, first_row, rows, self._renderer)
        return _joined(self._report, self._tokens, self._renderer, examples)

    def held_out_prompts(self, count: int) -> list[str]:
        """Questions of held-out rows that a person can read at a glance, the first `count`."""
        found = (_question(row) for row in self._sides[1])
        return list(islice((text for text in found if text), count))

    def write_cleaned(self, path: Path) -> None:
        """Write all kept rows, in the form in which they train, as one JSONL file."""
        with path.open("w", encoding="utf-8") as file:
            for name in ("train.jsonl", "eval.jsonl"):
                with (Path(self._folder.name) / name).open(encoding="utf-8") as lines:
                    file.writelines(_without_source(line) for line in lines)

    def hand_over(self, data_dir: Path) -> None:
        """Give a new run these rows and their tokens.

        Raises:
            OSError: As stored_tokens.hand_over; the run is as it was.
        """
        hand_over(Path(self._folder.name), data_dir)

    def _tokenized(self, side: Side, examples: Dataset, progress: Progress | None) -> TokenReport:
        folder = Path(self._folder.name) / FOLDER
        folder.mkdir(exist_ok=True)
        if not len(examples):
            return TokenReport()
        return tokenize(examples, self._renderer, tokens_path(folder, side), progress)[1]


def _question(row: dict[str, Any]) -> str | None:
    """What a row asks, if it is one short question."""
    turns = row.get("messages") or row.get("prompt") or []
    asked = [turn["content"] for turn in turns if turn["role"] == "user"]
    return asked[0] if len(asked) == 1 and len(asked[0]) <= QUESTION_CHARACTERS else None


def _without_source(line: str) -> str:
    row = json.loads(line)
    row.pop("source", None)
    return json.dumps(row, ensure_ascii=False) + "\n"


def row_preview(number: int, side: Side, example: dict[str, Any], renderer: Renderer) -> RowPreview:
    """Show one example token by token; where it cannot be rendered, why."""
    tokens: list[Token] = []
    rejected, cut, problem = None, 0, None
    try:
        tokens, rejected, cut = _rendered(example, renderer)
    except DatasetError as error:
        problem = str(error)
    if not problem and not any(token["trained"] for token in tokens):
        problem = "the prompt alone fills max_length"
    return RowPreview(
        row=number,
        side=side,
        file=example["source"]["file"],
        line=example["source"]["line"],
        tokens=tokens,
        rejected=rejected,
        stop_token=_stop_token(tokens, renderer),
        cut_tokens=cut,
        problem=problem,
    )


def tokens_of(rendered: Rendered) -> list[Token]:
    """Split a rendered text into its tokens.

    Text that belongs to no token (white space that a tokenizer trims) goes to the one after it.
    """
    shown = 0
    tokens = []
    for token_id, label, (_, end) in zip(
        rendered.input_ids, rendered.labels, rendered.offsets, strict=True
    ):
        text = rendered.text[shown:end]
        shown = max(shown, end)
        tokens.append(Token(id=token_id, text=text, trained=label != IGNORE_INDEX))
    return tokens


def _rendered(
    example: dict[str, Any], renderer: Renderer
) -> tuple[list[Token], list[Token] | None, int]:
    """Tokens, a pair's rejected tokens, and how many tokens were cut."""
    if "messages" in example or "text" in example:
        rendered = renderer.render(example)
        return tokens_of(rendered), None, rendered.cut
    pair = renderer.render_pair(example)
    prompt = tokens_of(pair.prompt)
    room = max(0, (renderer.max_length or 1 << 62) - len(prompt))
    answers = [answer for answer in (pair.chosen, pair.rejected) if answer]
    shown = [tokens_of(answer)[:room] for answer in answers]
    longest = max(len(answer.input_ids) + answer.cut for answer in answers)
    cut = pair.prompt.cut + max(0, longest - room)
    return prompt + shown[0], shown[1] if pair.rejected else None, cut


def _row_previews(
    sides: Sequence[Dataset], first_row: int | None, rows: int, renderer: Renderer
) -> list[RowPreview]:
    train, held_out = sides
    numbers = _row_numbers(len(train) + len(held_out), first_row, rows)
    return [
        row_preview(number, "train", train[number - 1], renderer)
        if number <= len(train)
        else row_preview(number, "eval", held_out[number - len(train) - 1], renderer)
        for number in numbers
    ]


def _row_numbers(count: int, first_row: int | None, rows: int) -> Sequence[int]:
    if first_row is None:
        return sorted(random.sample(range(1, count + 1), min(rows, count)))
    if not 1 <= first_row <= count:
        raise DatasetError(f"There is no row {first_row:,}: the data has rows 1 to {count:,}.")
    return range(first_row, min(first_row + rows, count + 1))


def _stop_token(tokens: list[Token], renderer: Renderer) -> str | None:
    trained = [token for token in tokens if token["trained"]]
    if not trained or trained[-1]["id"] not in renderer.stop_token_ids:
        return None
    return trained[-1]["text"]


def _joined(
    report: DataReport,
    sides: Sequence[TokenReport],
    renderer: Renderer,
    examples: list[RowPreview],
) -> Preview:
    """The report of the rows and that of their tokens, as one."""
    tokens = sides[0].merged(sides[1]).summary()
    reasons = _dropped(report, tokens["dropped"])
    return Preview(
        source=report["source"],
        recognised=report["recognised"],
        rows=report["rows"],
        kept=tokens["kept"],
        train_rows=sides[0].kept,
        eval_rows=sides[1].kept,
        truncated=tokens["truncated"],
        cut_tokens=tokens["cut_tokens"],
        dropped=sum(entry["count"] for entry in reasons.values()),
        dropped_reasons=reasons,
        duplicates=report["duplicates"],
        not_drawn=report["kept"] - report["train_rows"] - report["eval_rows"],
        max_length=renderer.max_length or 0,
        length=tokens["length"],
        length_histogram=tokens["length_histogram"],
        tokens=tokens["tokens"],
        trained_tokens=tokens["trained_tokens"],
        trained_token_share=tokens["trained_token_share"],
        stop_tokens=renderer.tokenizer.convert_ids_to_tokens(renderer.stop_token_ids),
        notes=report["notes"],
        warnings=report["warnings"],
        examples=examples,
    )


def _dropped(report: DataReport, by_rendering: dict[str, Any]) -> dict[str, Any]:
    """Reason → count and first lines: of reading, of converting, of rendering."""
    reasons: dict[str, Any] = {}
    if report["bad_row_count"]:
        lines = [row["line"] for row in report["bad_rows"][:LINES_KEPT]]
        reasons[UNREADABLE] = {"count": report["bad_row_count"], "lines": lines}
    for reason, entry in chain(report["dropped"].items(), by_rendering.items()):
        known = reasons.setdefault(reason, {"count": 0, "lines": []})
        known["count"] += entry["count"]
        known["lines"] = (known["lines"] + entry["lines"])[:LINES_KEPT]
    return reasons
