"""
Conversations put in order: what chat templates demand, from what people's files hold.

Harmless disorder is mended (two user turns in a row, a greeting before the first question, a last
question without an answer); a conversation that would teach nothing, or something else than it
says, is refused with a reason.
"""

from tuner.data.examples import Message, RowError

NO_ANSWER = "the answer is empty"


def tidy_conversation(messages: list[Message]) -> list[Message]:
    """One conversation for sft: system (if any), then user and assistant in turn, assistant last.

    Raises:
        RowError: No question, no answer, an empty turn, or a system message in the middle.
    """
    turns = _alternating(messages)
    while turns and (turns[-1]["role"] != "assistant" or not turns[-1]["content"]):
        turns.pop()
    if not any(turn["role"] == "user" for turn in messages):
        raise RowError("there is no user turn")
    if not any(turn["role"] == "user" for turn in turns):
        raise RowError(NO_ANSWER)
    _require_content(turns)
    return turns


def tidy_prompt(messages: list[Message]) -> list[Message]:
    """The context of a preference: as `tidy_conversation`, but the user last.

    Raises:
        RowError: It does not end with a question.
    """
    turns = _alternating(messages)
    if not turns or turns[-1]["role"] != "user":
        raise RowError("the prompt does not end with a user turn")
    _require_content(turns)
    return turns


def tidy_answer(messages: list[Message]) -> list[Message]:
    """An answer of one assistant message.

    Raises:
        RowError: Empty, or somebody else speaks in it.
    """
    if any(message["role"] != "assistant" for message in messages):
        raise RowError("an answer holds more than the assistant's own messages")
    turns = _merged(messages)
    if not turns or not turns[0]["content"]:
        raise RowError(NO_ANSWER)
    return turns


def with_system_prompt(messages: list[Message], system_prompt: str | None) -> list[Message]:
    """Put a system message first where there is none."""
    if not system_prompt or (messages and messages[0]["role"] == "system"):
        return messages
    return [Message(role="system", content=system_prompt), *messages]


def _alternating(messages: list[Message]) -> list[Message]:
    turns = _merged([turn for turn in messages if turn["role"] != "system" or turn["content"]])
    if any(turn["role"] == "system" for turn in turns[1:]):
        raise RowError("a system message stands in the middle of the conversation")
    # A greeting before the first question answers nothing.
    greeting = 1 if turns and turns[0]["role"] == "system" else 0
    if len(turns) > greeting and turns[greeting]["role"] == "assistant":
        del turns[greeting]
    return turns


def _merged(messages: list[Message]) -> list[Message]:
    """Join neighbours of the same role."""
    turns: list[Message] = []
    for message in messages:
        if turns and turns[-1]["role"] == message["role"]:
            both = (turns[-1]["content"], message["content"])
            turns[-1] = Message(role=message["role"], content="\n\n".join(filter(None, both)))
        else:
            turns.append(message)
    return turns


def _require_content(turns: list[Message]) -> None:
    for turn in turns:
        if not turn["content"]:
            raise RowError(NO_ANSWER if turn["role"] == "assistant" else "a user turn is empty")
