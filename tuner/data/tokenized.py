"""
Whole data sets as token ids and labels: exactly what trains, and its statistics.

`tokenize` renders a side (train or eval) of a run's examples into memory-mapped Arrow with the
columns that trl's trainers and their collators read:

    sft, text    input_ids, labels
    preference   prompt_ids, chosen_ids, rejected_ids
    kto          prompt_ids, completion_ids, label

The report is made in the same pass, so the numbers people see are the numbers that train.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from tuner.data.rendering import Rendered, RenderedPair, Renderer
from tuner.errors import DatasetError

BATCH_ROWS = 1000
LINES_KEPT = 20  # of each reason; the count is always whole

Columns = dict[str, list[Any]]


@dataclass
class TokenReport:
    """What rendering and max_length did to the rows of one side.

    Attributes:
        rows: Rows rendered.
        kept: Rows that train.
        truncated: Kept rows that max_length cut; `cut_tokens` is what they lost in all.
        dropped: Reason → {"count", "lines"}; lines are in the source file, the first of them.
        lengths: Tokens of each kept row (for pairs: prompt and longest answer), before the cut.
        tokens: Tokens kept; `trained_tokens` of them carry loss.
    """

    rows: int = 0
    kept: int = 0
    truncated: int = 0
    cut_tokens: int = 0
    dropped: dict[str, dict[str, Any]] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)
    tokens: int = 0
    trained_tokens: int = 0

    @property
    def trained_token_share(self) -> float:
        """Trained tokens over all kept tokens, 0 to 1."""
        return self.trained_tokens / self.tokens if self.tokens else 0.0

    @property
    def longest(self) -> int:
        """Tokens of the longest row, before the cut; 0 without rows."""
        return max(self.lengths, default=0)

    def drop(self, reason: str, line: int) -> None:
        """Count a row that does not train."""
        entry = self.dropped.setdefault(reason, {"count": 0, "lines": []})
        entry["count"] += 1
        if len(entry["lines"]) < LINES_KEPT:
            entry["lines"].append(line)

    def keep(self, tokens: int, trained: int, cut: int) -> None:
        """Count a row that trains."""
        self.kept += 1
        self.lengths.append(tokens + cut)
        self.tokens += tokens
        self.trained_tokens += trained
        self.truncated += cut > 0
        self.cut_tokens += cut

    def merged(self, other: "TokenReport") -> "TokenReport":
        """Both sides as one."""
        whole = TokenReport(**{**asdict(self), "dropped": {}, "lengths": []})
        whole.lengths = self.lengths + other.lengths
        for name in ("rows", "kept", "truncated", "cut_tokens", "tokens", "trained_tokens"):
            setattr(whole, name, getattr(self, name) + getattr(other, name))
        for report in (self, other):
            for reason, entry in report.dropped.items():
                total = whole.dropped.setdefault(reason, {"count": 0, "lines": []})
                total["count"] += entry["count"]
                total["lines"] = (total["lines"] + entry["lines"])[:LINES_KEPT]
        return whole

    def summary(self) -> dict[str, Any]:
        """For JSON: the lengths as percentiles and a histogram."""
        facts = asdict(self)
        lengths = np.array(facts.pop("lengths") or [0])
        facts["trained_token_share"] = round(self.trained_token_share, 4)
        facts["length"] = {
            name: int(np.percentile(lengths, percent))
            for name, percent in (("min", 0), ("median", 50), ("p95", 95), ("max", 100))
        }
        counts, edges = np.histogram(lengths, bins=min(20, max(1, int(lengths.max()))))
        facts["length_histogram"] = {
            "counts": counts.tolist(),
            "edges": [round(float(edge)) for edge in edges],
        }
        return facts


def tokenize(
    examples: Dataset,
    renderer: Renderer,
    cache_file: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Dataset, TokenReport]:
    """Render every example of one side.

    Args:
        examples: Rows of one kind, as data/prepare.py writes them.
        renderer: Whose max_length cuts the rows.
        cache_file: Where the Arrow file goes; None keeps the tokens in memory.
        progress: Called with the number of rows done so far.

    Returns:
        The tokens, in the order of the rows, and the report.
    """
    report = TokenReport()

    def render_rows(batch: Columns) -> Columns:
        rows = [{name: column[i] for name, column in batch.items()} for i in range(_height(batch))]
        columns = tokenize_rows(rows, renderer, report)
        if progress:
            progress(report.rows)
        return columns

    tokens = examples.map(
        render_rows,
        batched=True,
        batch_size=BATCH_ROWS,
        remove_columns=examples.column_names,
        cache_file_name=str(cache_file) if cache_file else None,
        keep_in_memory=cache_file is None,
        load_from_cache_file=False,
        # Without it, datasets would pickle the tokenizer to compute one.
        new_fingerprint=f"{examples._fingerprint}-tokens",
    )
    return tokens, report


def require_trained_rows(report: TokenReport, max_length: int) -> None:
    """Refuse data in which nothing is left to learn.

    Raises:
        DatasetError: No row keeps a trained token.
    """
    if report.kept:
        return
    reasons = "; ".join(f"{reason}: {entry['count']:,}" for reason, entry in report.dropped.items())
    raise DatasetError(
        f"None of the {report.rows:,} rows would train at max_length={max_length} ({reasons}). "
        "Raise max_length, or shorten the prompts."
    )


def _height(batch: Columns) -> int:
    return len(next(iter(batch.values())))


def tokenize_rows(rows: list[dict[str, Any]], renderer: Renderer, report: TokenReport) -> Columns:
    """Render some rows of one kind; those that cannot train are left out and counted."""
    report.rows += len(rows)
    if "messages" in rows[0] or "text" in rows[0]:
        return _tokenize_answers(rows, renderer, report)
    return _tokenize_pairs(rows, renderer, report)


def _tokenize_answers(
    rows: list[dict[str, Any]], renderer: Renderer, report: TokenReport
) -> Columns:
    columns: Columns = {"input_ids": [], "labels": []}
    for row, rendered in _render_each(rows, renderer, report):
        if not rendered.trained:
            report.drop("the prompt alone fills max_length", _line(row))
            continue
        report.keep(len(rendered.input_ids), rendered.trained, rendered.cut)
        columns["input_ids"].append(rendered.input_ids)
        columns["labels"].append(rendered.labels)
    return columns


def _render_each(
    rows: list[dict[str, Any]], renderer: Renderer, report: TokenReport
) -> list[tuple[dict[str, Any], Rendered]]:
    """Render in one batch; where the template refuses a row, one by one to find it."""
    try:
        return list(zip(rows, renderer.render_batch(rows), strict=True))
    except DatasetError:
        rendered = []
        for row in rows:
            try:
                rendered.append((row, renderer.render(row)))
            except DatasetError as error:
                report.drop(str(error), _line(row))
        return rendered


def _tokenize_pairs(rows: list[dict[str, Any]], renderer: Renderer, report: TokenReport) -> Columns:
    columns: Columns = {}
    for row in rows:
        try:
            pair = renderer.render_pair(row)
        except DatasetError as error:
            report.drop(str(error), _line(row))
            continue
        if len(pair.prompt.input_ids) + pair.prompt.cut >= (renderer.max_length or 1 << 62):
            report.drop("the prompt alone fills max_length", _line(row))
            continue
        for name, value in _pair_columns(pair, row, renderer.max_length, report).items():
            columns.setdefault(name, []).append(value)
    return columns or _no_pairs(rows[0])


def _pair_columns(
    pair: RenderedPair, row: dict[str, Any], max_length: int | None, report: TokenReport
) -> dict[str, Any]:
    prompt = pair.prompt.input_ids
    room = (max_length or 1 << 62) - len(prompt)
    answers = [answer for answer in (pair.chosen, pair.rejected) if answer]
    longest = max(len(answer.input_ids) + answer.cut for answer in answers)
    kept = [answer.input_ids[:room] for answer in answers]
    tokens = len(prompt) + max(map(len, kept))
    report.keep(tokens, max(map(len, kept)), max(0, longest - room))
    if pair.rejected is None:
        return {"prompt_ids": prompt, "completion_ids": kept[0], "label": bool(row["label"])}
    return {"prompt_ids": prompt, "chosen_ids": kept[0], "rejected_ids": kept[1]}


def _no_pairs(row: dict[str, Any]) -> Columns:
    names = ("chosen_ids", "rejected_ids") if "chosen" in row else ("completion_ids", "label")
    return {"prompt_ids": [], **{name: [] for name in names}}


def _line(row: dict[str, Any]) -> int:
    return int((row.get("source") or {}).get("line", 0))
