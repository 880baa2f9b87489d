"""
One row to one Example, once it is known which column is what.

A converter takes the row and its Roles (role → columns) and raises RowError for a row that cannot
be used. Roles: system, prompt, history, messages, answer, text, chosen, rejected, label.
"""

from collections.abc import Callable
from typing import Any

from tuner.data.cell_values import as_messages, as_text, as_transcript, is_conversation, joined_text
from tuner.data.columns import Roles
from tuner.data.conversations import NO_ANSWER, tidy_answer, tidy_conversation, tidy_prompt
from tuner.data.examples import Example, Message, RowError

Row = dict[str, Any]
Converter = Callable[[Row, Roles], Example]

_GOOD = {"true", "1", "1.0", "+1", "good", "yes", "desirable", "chosen", "thumbs_up"}
_BAD = {"false", "0", "0.0", "-1", "bad", "no", "undesirable", "rejected", "thumbs_down"}


def to_conversation(row: Row, roles: Roles) -> Example:
    """sft: the context, and the answer where it has a column of its own."""
    context = _context(row, roles)
    if "answer" in roles and not any(turn["role"] == "user" for turn in context):
        raise RowError("the prompt is empty")
    return {"messages": tidy_conversation([*context, *_answer(row, roles, "answer")])}


def to_text(row: Row, roles: Roles) -> Example:
    """text: the columns joined."""
    text = joined_text([row.get(name) for name in roles["text"]])
    if not text:
        raise RowError("the text is empty")
    return {"text": text}


def to_preference(row: Row, roles: Roles) -> Example:
    """preference: context, and two answers that differ."""
    prompt, chosen, rejected = _pair(row, roles)
    example = {
        "prompt": tidy_prompt(prompt),
        "chosen": tidy_answer(chosen),
        "rejected": tidy_answer(rejected),
    }
    if example["chosen"] == example["rejected"]:
        raise RowError("chosen and rejected are the same")
    return example


def to_chosen_conversation(row: Row, roles: Roles) -> Example:
    """sft from a preference: the context and the chosen answer."""
    prompt, chosen, _ = _pair(row, roles)
    return {"messages": [*tidy_prompt(prompt), *tidy_answer(chosen)]}


def to_labelled_answer(row: Row, roles: Roles) -> Example:
    """kto: context, one answer, and whether it was good."""
    label = as_label(row.get(roles["label"][0]))
    prompt = _context(row, roles)
    completion = _answer(row, roles, "answer")
    if "answer" not in roles:
        turns = tidy_conversation(prompt)
        prompt, completion = turns[:-1], turns[-1:]
    return {
        "prompt": tidy_prompt(prompt),
        "completion": tidy_answer(completion),
        "label": label,
    }


def to_good_conversation(row: Row, roles: Roles) -> Example:
    """sft from labelled answers: the good ones."""
    example = to_labelled_answer(row, roles)
    if not example["label"]:
        raise RowError("the answer is labelled bad, and objective=sft imitates every answer")
    return {"messages": [*example["prompt"], *example["completion"]]}


def as_label(value: Any) -> bool:
    """Whether a label says good.

    Raises:
        RowError: It says neither.

    >>> as_label("Good"), as_label(0)
    (True, False)
    """
    spelled = str(value).strip().lower()
    if spelled in _GOOD or spelled in _BAD:
        return spelled in _GOOD
    raise RowError("the label is neither true nor false (true/false, 1/0, good/bad)")


def _context(row: Row, roles: Roles) -> list[Message]:
    """System, history and prompt, or the messages."""
    system = joined_text([row.get(name) for name in roles.get("system", [])])
    messages = [Message(role="system", content=system)] if system else []
    for name in roles.get("history", []):
        messages += _history(row.get(name))
    texts = []
    for name in [*roles.get("messages", []), *roles.get("prompt", [])]:
        if is_conversation(row.get(name)):
            messages += as_messages(row.get(name), "user")
        else:
            texts.append(row.get(name))
    text = joined_text(texts)
    return [*messages, Message(role="user", content=text)] if text else messages


def _history(value: Any) -> list[Message]:
    """LLaMA-Factory's list of [question, answer] pairs."""
    messages: list[Message] = []
    for pair in value if isinstance(value, list) else []:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowError("the history is not a list of question and answer pairs")
        messages.append(Message(role="user", content=as_text(pair[0])))
        messages.append(Message(role="assistant", content=as_text(pair[1])))
    return messages


def _answer(row: Row, roles: Roles, role: str) -> list[Message]:
    names = roles.get(role, [])
    if len(names) == 1:
        return as_messages(row.get(names[0]), "assistant")
    text = joined_text([row.get(name) for name in names])
    return [Message(role="assistant", content=text)] if text else []


def _pair(row: Row, roles: Roles) -> tuple[list[Message], list[Message], list[Message]]:
    """Prompt, chosen, rejected; a context that both answers begin with becomes the prompt."""
    chosen, rejected = (_answer_or_transcript(row, roles, side) for side in ("chosen", "rejected"))
    if not chosen or not rejected:
        raise RowError(NO_ANSWER)
    shared = _shared_prefix(chosen, rejected)
    prompt = _context(row, roles)
    if shared:
        # The data set's own prompt column repeats the start of these conversations.
        system = prompt[:1] if prompt and prompt[0]["role"] == "system" else []
        prompt = [*system, *chosen[:shared]]
    return prompt, chosen[shared:], rejected[shared:]


def _answer_or_transcript(row: Row, roles: Roles, side: str) -> list[Message]:
    messages = _answer(row, roles, side)
    if len(messages) == 1 and messages[0]["role"] == "assistant":
        return as_transcript(_raw_text(row, roles, side)) or messages
    return messages


def _raw_text(row: Row, roles: Roles, side: str) -> str:
    value = row.get(roles[side][0])
    return value if isinstance(value, str) else ""


def _shared_prefix(chosen: list[Message], rejected: list[Message]) -> int:
    """How many messages both begin with, up to the last one of the user."""
    shared = 0
    for number, (one, other) in enumerate(zip(chosen, rejected, strict=False), 1):
        if one != other:
            break
        if one["role"] == "user":
            shared = number
    return shared
