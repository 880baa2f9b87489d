"""
Make a conversation fit the model's context: the oldest turns go, whole, and it is said how many.

The system message and the last question always stay.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tuner.errors import ChatError

Message = dict[str, str]


class Trimmed(NamedTuple):
    """A conversation that fits.

    Attributes:
        turns_left_out: Questions that are no longer in it, each with its answer.
    """

    messages: tuple[Message, ...]
    turns_left_out: int


def trim(
    messages: Sequence[Message],
    count_tokens: Callable[[Sequence[Message]], int],
    context_length: int,
    max_new_tokens: int,
) -> Trimmed:
    """Leave out as few of the oldest turns as it takes.

    Args:
        messages: Ends with the user's turn.
        count_tokens: Tokens of a conversation as it is rendered.
        context_length: Tokens; 0 where the model sets no limit.
        max_new_tokens: Room that the answer needs of them.

    Raises:
        ChatError: The last question alone does not fit.

    >>> words = lambda messages: sum(len(m["content"].split()) for m in messages)
    >>> chat = [{"role": role, "content": text} for role, text in (
    ...     ("system", "Be brief."), ("user", "One two three"), ("assistant", "Four"),
    ...     ("user", "Five six"))]
    >>> kept, left_out = trim(chat, words, context_length=14, max_new_tokens=8)
    >>> [message["content"] for message in kept], left_out
    (['Be brief.', 'Five six'], 1)
    """
    if not context_length or count_tokens(messages) <= (room := context_length - max_new_tokens):
        return Trimmed(tuple(messages), 0)
    system, turns = split_turns(messages)

    def kept(left_out: int) -> list[Message]:
        return [*system, *(message for turn in turns[left_out:] for message in turn)]

    # Fewer turns are fewer tokens, so the first number that fits is found by halving.
    left_out = bisect_left(
        range(len(turns)), True, lo=1, key=lambda number: count_tokens(kept(number)) <= room
    )
    if left_out >= len(turns):
        raise ChatError(_too_long(count_tokens(kept(len(turns) - 1)), context_length, room))
    return Trimmed(tuple(kept(left_out)), left_out)


def split_turns(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """The system message, and turns: each a question and what follows it.

    An answer before the first question is a turn of its own: it is left out first.
    """
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns: list[list[Message]] = []
    for message in messages[len(system) :]:
        if message["role"] == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return system, turns


def left_out_note(turns: int, context_length: int) -> str:
    """What the answer's pane says about them.

    >>> left_out_note(1, 2048)
    "The oldest turn was left out: the conversation exceeds the model's 2,048 tokens."
    """
    which = "oldest turn was" if turns == 1 else f"oldest {turns} turns were"
    return f"The {which} left out: the conversation exceeds the model's {context_length:,} tokens."


def _too_long(tokens: int, context_length: int, room: int) -> str:
    return (
        f"The question has {tokens:,} tokens with its system message, and the model's "
        f"{context_length:,}-token context leaves {max(0, room):,} of them beside "
        f"max_new_tokens={context_length - room:,}. Shorten the question, or lower max_new_tokens."
    )
