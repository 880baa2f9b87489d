"""
A conversation with several voices on the page: what a pane shows, what is asked, what votes say.

Plain functions: panes as Gradio's Chatbot holds them in, rows for the engine and words out.
"""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from tuner.chat.protocol import PieceMessage
from tuner.chat.voices import Row, Sampling, Voice
from tuner.chat.votes import Tally
from tuner.errors import RecipeError
from tuner.ui.markup import element

Message = dict[str, str]
BLIND_NAMES = ("A", "B")
# A batch ends with its longest row, so an answer without end would keep others waiting.
RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 10),
    "max_new_tokens": (1, 1024),
    "seed": (0, 2**53),  # what JSON holds exactly
    "top_p": (0.01, 1),
    "top_k": (0, 1_000_000),
    "min_p": (0, 1),
    "repetition_penalty": (0.1, 10),
}
SATURATED = 3.0  # nats: twenty times as likely


class HeldOut(TypedDict):
    """A row that did not train: what it asks and the answer it has."""

    prompt: str
    reference: str


def messages_of(shown: Sequence[Any]) -> list[Message]:
    """The messages of a pane: Gradio holds their contents as lists of blocks.

    >>> messages_of([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}])
    [{'role': 'user', 'content': 'Hi'}]
    """
    return [{"role": one["role"], "content": _text(one["content"])} for one in shown or []]


def rows_to_ask(
    voices: Sequence[Voice],
    panes: Sequence[list[Message]],
    prompt: str,
    system_prompt: str,
    sampling: Sampling,
) -> list[Row]:
    """One row for each voice: its own history, and the same question."""
    system = [{"role": "system", "content": system_prompt}] if system_prompt.strip() else []
    asked = {"role": "user", "content": prompt}
    return [
        Row(voice, (*system, *history, asked), sampling)
        for voice, history in zip(voices, panes, strict=True)
    ]


def make_sampling(given: Mapping[str, Any]) -> Sampling:
    """How answers are drawn, as a person gave it.

    Raises:
        RecipeError: Every number that cannot be used.

    >>> make_sampling({"temperature": -1, "top_p": 0.9})
    Traceback (most recent call last):
    tuner.errors.RecipeError: temperature=-1 cannot be used: it must be 0 to 10.
    """
    problems = [
        f"{name}={given[name]} cannot be used: it must be {least:g} to {most:g}."
        for name, (least, most) in RANGES.items()
        if name in given and not _is_within(given[name], least, most)
    ]
    if problems:
        raise RecipeError(problems)
    return Sampling(**given)


def with_turn(history: Sequence[Message], prompt: str, answer: str) -> list[Message]:
    """A pane's messages while an answer grows."""
    turn = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer or "…"}]
    return [*history, *turn]


def without_last_turn(history: Sequence[Message]) -> tuple[list[Message], str]:
    """The messages before the last question, and that question; to ask it again.

    >>> without_last_turn([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    ([], 'a')
    """
    asked = [at for at, one in enumerate(history) if one["role"] == "user"]
    if not asked:
        return list(history), ""
    return list(history[: asked[-1]]), history[asked[-1]]["content"]


def figures_html(piece: PieceMessage) -> str:
    """ "41 tokens · 88 tokens/s · first after 62 ms" """
    if not piece["tokens"]:
        return ""
    after = piece["seconds"] - piece["first_seconds"]
    parts = [f"{piece['tokens']:,} tokens"]
    if after > 0 and piece["tokens"] > 1:
        parts.append(f"{(piece['tokens'] - 1) / after:,.0f} tokens/s")
    parts.append(f"first after {1000 * piece['first_seconds']:,.0f} ms")
    if piece["reason"] == "length":
        parts.append("cut at the longest length")
    return element("p", " · ".join([*parts, *piece["note"].splitlines()]), class_="tuner-numbers")


def shuffled(voices: Sequence[Voice], seed: int | None = None) -> list[int]:
    """The order in which voices stand: judges favour a side, so it is drawn for each question."""
    order = list(range(len(voices)))
    random.Random(seed).shuffle(order)
    return order


def tally_html(count: Tally, voice: str) -> str:
    """What the votes say so far, and how sure that is."""
    interval, rate = count.interval, count.rate
    if interval is None or rate is None:
        return element("p", f"No votes yet between {voice} and the base.", class_="tuner-numbers")
    said = (
        f"{voice} won {count.wins} of {count.votes}, lost {count.losses}: "
        f"win rate {rate:.0%} ({interval[0]:.0%}–{interval[1]:.0%}, 95% interval; what neither "
        "won counts half)."
    )
    return element("p", f"{said} {_missing(count)}", class_="tuner-numbers")


def changed_html(texts: Sequence[str], differences: Sequence[float], voice: str) -> str:
    """An answer's tokens, coloured by how much likelier the tuned model found them than the base.

    Args:
        differences: Of each token, log-probability under `voice` minus that under the base.
    """
    tokens = "".join(map(_token, texts, differences))
    legend = element(
        "p",
        inner=_token(f"likelier for {voice}", SATURATED)
        + " · "
        + _token("likelier for the base", -SATURATED)
        + element("span", " · point at a token for the numbers"),
        class_="tuner-numbers",
    )
    return element("pre", inner=tokens, class_="tuner-tokens") + legend


def held_out_row(data_dir: Path, seed: int | None = None) -> HeldOut | None:
    """A random held-out row of a run that is one question with one answer; None without any."""
    try:
        lines = (data_dir / "eval.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    random.Random(seed).shuffle(lines)
    return next((row for line in lines if (row := _held_out(line))), None)


def as_markdown(names: Sequence[str], panes: Sequence[Sequence[Message]]) -> str:
    """The conversations for a person to read."""
    parts = []
    for name, history in zip(names, panes, strict=True):
        turns = "\n\n".join(f"**{one['role']}**: {one['content']}" for one in history)
        parts.append(f"## {name}\n\n{turns}\n")
    return "\n".join(parts)


def as_json(
    names: Sequence[str], panes: Sequence[Sequence[Message]], sampling: dict[str, Any]
) -> str:
    """The conversations for a program, with how they were drawn."""
    answers = [
        {"name": name, "messages": list(history)}
        for name, history in zip(names, panes, strict=True)
    ]
    return json.dumps({"sampling": sampling, "voices": answers}, ensure_ascii=False, indent=2)


def _is_within(value: Any, least: float, most: float) -> bool:
    return isinstance(value, int | float) and least <= value <= most


def _missing(count: Tally) -> str:
    if count.missing == 0:
        return "That is clear."
    if count.missing is None:
        return "At this rate no number of votes would tell them apart."
    return f"About {count.missing:,} more votes at this rate would make it clear."


def _token(text: str, difference: float) -> str:
    share = min(1.0, abs(difference) / SATURATED)
    colour = "var(--tuner-accent)" if difference > 0 else "var(--tuner-base)"
    return element(
        "span",
        text,
        style=f"background: color-mix(in srgb, {colour} {45 * share:.0f}%, transparent)",
        title=f"{difference:+.2f} nats",
    )


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(str(block.get("text", "")) for block in content if isinstance(block, dict))


def _held_out(line: str) -> HeldOut | None:
    turns = json.loads(line).get("messages") or []
    spoken = [turn for turn in turns if turn["role"] != "system"]
    if [turn["role"] for turn in spoken] != ["user", "assistant"]:
        return None
    return HeldOut(prompt=spoken[0]["content"], reference=spoken[1]["content"])
