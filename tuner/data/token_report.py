"""
What rendering and max_length did to the rows of one side, in numbers.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tuner.errors import DatasetError

LINES_KEPT = 20  # of each reason; the count is always whole


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
