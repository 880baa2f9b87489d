"""One question to several voices, as a document that grows while they answer."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

from tuner.chat.client import Chat
from tuner.chat.lineup import Lineup
from tuner.chat.voices import Row, Sampling


def chat_documents(
    client: Chat, lineup: Lineup, prompt: str, sampling: Sampling
) -> Iterator[dict[str, Any]]:
    """Ask all voices of a lineup at once.

    Yields:
        {"prompt", "answers": [{"name", "text", "tokens", "seconds"}]}, base first, each time
        something came; the last one is whole.

    Raises:
        TunerError: What the engine says.
    """
    system = lineup.system_prompt
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    rows = [Row(voice, tuple(messages), sampling) for voice in lineup.voices]
    answers: list[dict[str, Any]] = [
        {"name": voice.name, "text": "", "tokens": 0, "seconds": 0.0} for voice in lineup.voices
    ]
    with closing(client.generate(lineup.base, rows)) as pieces:
        for piece in pieces:
            answer = answers[piece["row"]]
            answer["text"] += piece["text"]
            answer["tokens"] = piece["tokens"]
            answer["seconds"] = round(piece["seconds"], 3)
            yield {"prompt": prompt, "answers": [dict(one) for one in answers]}
