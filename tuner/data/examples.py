"""
Examples: what every source becomes, and how two of them are known to be the same.

    sft         {"messages": [Message, …]}  the last the assistant's; system first, if at all
    text        {"text": str}               every token is trained
    preference  {"prompt": [Message, …], "chosen": [Message, …], "rejected": [Message, …]}
    kto         {"prompt": [Message, …], "completion": [Message, …], "label": bool}

Answers (chosen, rejected, completion) are assistant messages only. Every stored example also has
"source": {"file": str, "line": int}, where its row came from.
"""

from hashlib import blake2b
from typing import Any, Literal, TypedDict

Role = Literal["system", "user", "assistant"]
Kind = Literal["sft", "text", "preference", "kto"]
Example = dict[str, Any]


class Message(TypedDict):
    """One turn of a conversation."""

    role: Role
    content: str


class RowError(ValueError):
    """Why a row that was read cannot be trained on; the same words for the same cause."""


def kind_of(example: Example) -> Kind:
    """The kind, from the keys."""
    if "messages" in example:
        return "sft"
    if "text" in example:
        return "text"
    return "preference" if "chosen" in example else "kto"


def content_key(example: Example) -> int:
    """64 bits that equal another example's when both say the same, white space aside.

    Of a million rows, two different ones share a key with a chance of one in 30 million.
    """
    parts: list[str] = []
    for name, value in example.items():
        if name != "source":
            parts += [name, *_texts(value)]
    return _hash(" ".join(part.split()) for part in parts)


def prompt_key(example: Example) -> int:
    """64 bits of what is asked, case and white space aside; of a document, all of it."""
    if "text" in example:
        return content_key(example)
    asked = " ".join(_texts(example.get("prompt") or _before_answer(example["messages"])))
    return _hash([" ".join(asked.casefold().split())])


def _before_answer(messages: list[Message]) -> list[Message]:
    """The turns before the assistant first speaks."""
    roles = [message["role"] for message in messages]
    return messages[: roles.index("assistant")]


def _texts(value: Any) -> list[str]:
    if isinstance(value, list):
        return [part for message in value for part in (message["role"], message["content"])]
    return [str(value)]


def _hash(parts: Any) -> int:
    return int.from_bytes(blake2b("\x1f".join(parts).encode(), digest_size=8).digest(), "big")
