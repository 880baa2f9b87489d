"""
What stands in one cell, as text or as messages: strings, numbers, lists, lists of text parts,
ShareGPT's and OpenAI's messages, LLaMA-Factory's single objects, and JSON that a CSV holds as text.
"""

import ast
import json
import math
import re
from typing import Any

from tuner.data.examples import Message, Role, RowError

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "prompter": "user",
    "customer": "user",
    "client": "user",
    "question": "user",
    "instruction": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "agent": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "claude": "assistant",
    "answer": "assistant",
    "response": "assistant",
}
ROLE_KEYS = ("role", "from", "speaker")
CONTENT_KEYS = ("content", "value", "text")

_TRANSCRIPT = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \n]?")  # Anthropic's HH-RLHF


def as_text(value: Any) -> str:
    """One cell as text; lists are joined by blank lines, objects become JSON.

    Raises:
        RowError: Binary data.

    >>> as_text([" One.", "", "Two."])
    'One.\\n\\nTwo.'
    """
    if isinstance(value, str):
        return _trimmed(encodable(value))
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bytes):
        raise RowError("a cell holds binary data")
    if isinstance(value, list | tuple):
        return _joined(value)
    if isinstance(value, dict):
        return encodable(_object_text(value))
    return str(value)


def joined_text(values: list[Any]) -> str:
    """Several cells as one text, empty ones left out."""
    return "\n\n".join(text for text in map(as_text, values) if text)


def is_conversation(value: Any) -> bool:
    """Whether a cell holds messages: a list of them, one of them, or either as JSON text."""
    value = _parsed(value)
    if isinstance(value, dict):
        return _is_message(value)
    return isinstance(value, list) and bool(value) and all(map(_is_message, value))


def as_messages(value: Any, role: Role) -> list[Message]:
    """One cell as messages; plain text is one message of `role`, nothing is none.

    Raises:
        RowError: An unknown role, or a message that holds more than text.
    """
    if is_conversation(value):
        parsed = _parsed(value)
        return [_message(turn) for turn in (parsed if isinstance(parsed, list) else [parsed])]
    text = as_text(value)
    return [Message(role=role, content=text)] if text else []


def as_transcript(text: str) -> list[Message]:
    """Messages of a text written as "\\n\\nHuman: …\\n\\nAssistant: …"; none if it is not."""
    marks = list(_TRANSCRIPT.finditer(text))
    if not marks or marks[0].start() or marks[0][1] != "Human":
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [
        Message(role=ROLES[mark[1].lower()], content=as_text(text[mark.end() : end]))
        for mark, end in zip(marks, ends, strict=True)
    ]


def _message(turn: dict[str, Any]) -> Message:
    spelled = str(_first(turn, ROLE_KEYS)).strip().lower()
    if spelled not in ROLES:
        raise RowError(f"role {spelled[:30]!r} has no place in training (tools are not supported)")
    if turn.get("tool_calls"):
        raise RowError("a message calls a tool (tools are not supported)")
    return Message(role=ROLES[spelled], content=_parts_text(_first(turn, CONTENT_KEYS)))


def _parts_text(content: Any) -> str:
    """OpenAI's content as a list of parts: only text can be trained on."""
    if not isinstance(content, list):
        return as_text(content)
    texts = []
    for part in content:
        if isinstance(part, dict) and part.get("type", "text") != "text":
            raise RowError("a message holds more than text (a picture, sound or file)")
        texts.append(as_text(part.get("text") if isinstance(part, dict) else part))
    return "\n\n".join(text for text in texts if text)


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and any(key in value for key in ROLE_KEYS)
        and any(key in value for key in CONTENT_KEYS)
    )


def _first(turn: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next(turn[key] for key in keys if key in turn)


def _parsed(value: Any) -> Any:
    """Messages written as JSON text, or as Python writes a list, into a CSV cell."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[{", '{"', "{'")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return value


def _joined(values: list[Any] | tuple[Any, ...]) -> str:
    return joined_text(list(values))


def _object_text(value: dict[str, Any]) -> str:
    """SQuAD's answers give their first text; any other object is itself the answer, as JSON."""
    if isinstance(value.get("text"), list) and "answer_start" in value:
        return as_text(next(iter(value["text"]), ""))
    try:
        return json.dumps(value, ensure_ascii=False, default=str) if value else ""
    except (RecursionError, TypeError, ValueError):
        raise RowError("a cell holds an object that cannot be written as JSON") from None


def _trimmed(text: str) -> str:
    """Outer white space off, but the indentation of a first line of code kept; lines end in \\n."""
    text = text.replace("\r\n", "\n")
    return text.strip() if "\n" not in text.strip() else text.strip("\r\n").rstrip()


def encodable(text: str) -> str:
    """JSON may hold half a surrogate pair, which no tokenizer and no file accepts."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
