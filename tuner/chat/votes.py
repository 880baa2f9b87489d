"""
Blind votes of a run: kept in its votes.jsonl, counted, and how sure the count is.

    add_vote(run, prompt="Hi", answers=("Hello.", "What?"), voices=("base", "bot"), winner="left")
    tally(read_votes(run), "bot", "base").rate

A tie counts half a win for each, and so does "both bad", as in the Chatbot Arena
(https://arxiv.org/abs/2306.05685, FastChat's Elo). Interval: Wilson's score interval, 95%
(Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953); half wins make it a little too wide,
never too narrow.
"""

import errno
import json
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, get_args

from tuner.errors import RunError
from tuner.runs.atomic import locked
from tuner.runs.store import Run

Winner = Literal["left", "right", "tie", "both bad"]
Z = 1.959963984540054  # 97.5% of a normal distribution lie below


class Vote(TypedDict):
    """One vote.

    Attributes:
        time: Unix seconds.
        left, right: The answers, as they were shown.
        voices: Who gave the left one and who the right one.
        voter: Who voted, where people sign in.
    """

    time: float
    prompt: str
    left: str
    right: str
    winner: Winner
    voices: list[str]
    voter: NotRequired[str]


@dataclass(frozen=True)
class Tally:
    """How one voice did against another.

    >>> count = Tally(wins=8, losses=2)
    >>> count.rate, [round(end, 3) for end in count.interval], count.missing
    (0.8, [0.49, 0.943], 1)
    """

    wins: int = 0
    losses: int = 0
    ties: int = 0
    both_bad: int = 0

    @property
    def votes(self) -> int:
        return self.wins + self.losses + self.ties + self.both_bad

    @property
    def rate(self) -> float | None:
        """Wins, and half of what neither won, over all votes; None without votes."""
        if not self.votes:
            return None
        return (self.wins + (self.ties + self.both_bad) / 2) / self.votes

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the true rate lies, 95% sure; None without votes."""
        return None if self.rate is None else wilson_interval(self.rate, self.votes)

    @property
    def missing(self) -> int | None:
        """How many more votes, at the present rate, until the interval leaves out 50%.

        0 where it does now; None where it never will (a draw), or without votes.

        >>> Tally(wins=60, losses=40).missing, Tally(wins=9, losses=1).missing
        (0, 0)
        >>> Tally(wins=11, losses=9).missing, Tally(wins=5, losses=5).missing
        (365, None)
        """
        if self.rate is None or self.rate == 0.5:
            return None
        # Wilson's interval leaves out p exactly when |rate - p| > Z · sqrt(p(1 - p) / n).
        needed = math.floor((Z * 0.5 / (self.rate - 0.5)) ** 2) + 1
        return max(0, needed - self.votes)


def wilson_interval(rate: float, votes: int) -> tuple[float, float]:
    """Wilson's 95% score interval of a share.

    Newcombe 1998 (https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E)
    has 81 of 263 as 0.2553 to 0.3662, and 0 of 20 as 0 to 0.1611:

    >>> [round(end, 4) for end in wilson_interval(81 / 263, 263)]
    [0.2553, 0.3662]
    >>> [round(end, 4) for end in wilson_interval(0, 20)]
    [0.0, 0.1611]
    """
    centre = rate + Z**2 / (2 * votes)
    spread = Z * math.sqrt(rate * (1 - rate) / votes + Z**2 / (4 * votes**2))
    scale = 1 + Z**2 / votes
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def tally(votes: Iterable[Vote], voice: str, against: str) -> Tally:
    """Count the votes between two voices, whichever side each stood on.

    >>> votes = [{"winner": winner, "voices": voices} for winner, voices in (
    ...     ("left", ["base", "bot"]), ("right", ["base", "bot"]), ("left", ["bot", "base"]),
    ...     ("both bad", ["bot", "base"]), ("left", ["base", "other"]))]
    >>> tally(votes, "bot", "base")
    Tally(wins=2, losses=1, ties=0, both_bad=1)
    """
    counts = {"wins": 0, "losses": 0, "tie": 0, "both bad": 0}
    for vote in votes:
        if sorted(vote["voices"]) != sorted((voice, against)):
            continue
        winner: str = vote["winner"]
        if winner in ("left", "right"):
            won = vote["voices"][winner == "right"] == voice
            winner = "wins" if won else "losses"
        counts[winner] += 1
    return Tally(counts["wins"], counts["losses"], counts["tie"], counts["both bad"])


def votes_path(run: Run) -> Path:
    """Where a run's votes are."""
    return run.dir / "votes.jsonl"


def add_vote(
    run: Run,
    *,
    prompt: str,
    answers: tuple[str, str],
    voices: tuple[str, str],
    winner: str,
    voter: str | None = None,
) -> Vote:
    """Append one vote to a run's file.

    Args:
        answers, voices: Left and right.

    Raises:
        RunError: The run is gone, the disk is full, or `winner` is none of the four.
    """
    if winner not in get_args(Winner):
        raise RunError(f"winner={winner} is no vote. Choose one of {', '.join(get_args(Winner))}.")
    vote = Vote(
        time=time.time(),
        prompt=prompt,
        left=answers[0],
        right=answers[1],
        winner=winner,  # type: ignore[typeddict-item]
        voices=list(voices),
    )
    if voter is not None:
        vote["voter"] = voter
    line = json.dumps(vote, ensure_ascii=False).encode("utf-8", errors="replace") + b"\n"
    try:
        with locked(run.dir):
            _append(votes_path(run), line)
    except OSError as error:
        raise RunError(f"The vote cannot be kept in {run.id}: {error.strerror}.") from None
    return vote


def read_votes(run: Run) -> list[Vote]:
    """All votes, oldest first. A line that is no vote, as a full disk leaves it, is passed over."""
    try:
        data = votes_path(run).read_bytes()
    except FileNotFoundError:
        return []
    return [vote for line in data.split(b"\n") if (vote := _vote(line)) is not None]


def _append(path: Path, line: bytes) -> None:
    with open(path, "a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
            line = b"\n" + line  # a writer was killed in the middle of its line
        if file.write(line) != len(line):  # a disk takes what fits
            file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _vote(line: bytes) -> Vote | None:
    try:
        value: Any = json.loads(line)
        sound = value["winner"] in get_args(Winner) and len(value["voices"]) == 2
        return value if sound and all(isinstance(name, str) for name in value["voices"]) else None
    except (ValueError, RecursionError, TypeError, KeyError):
        return None
