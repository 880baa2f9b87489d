"""
The exact text a tuned model was trained to continue: one conversation, rendered by its template.

The template is the one that lies beside the weights, as training left it there. It is rendered in
a process of its own (hub/chat_template.py) and remembered, since a card is made again and again.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.hub.card.answers import first_pair
from tuner.hub.card.facts import Facts, json_object
from tuner.hub.card.markdown import cleaned, shortened
from tuner.hub.chat_template import rendered

TEMPLATE, SETTINGS = "chat_template.jinja", "tokenizer_config.json"
LONGEST_TEMPLATE = 100_000  # characters
DAY = 86_400  # seconds
LONGEST_SYSTEM, LONGEST_TURN = 2000, 400
EXAMPLE = ("What can you do?", "I can answer questions.")
TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")


@dataclass(frozen=True)
class PromptFormat:
    """How a conversation is written.

    Attributes:
        text: One with an answer, stop token included.
        stop: The token that ends an answer; may be empty.
        ollama: The template in Ollama's language; None where that cannot say it.
    """

    text: str
    stop: str
    ollama: str | None


def prompt_format(facts: Facts) -> PromptFormat | None:
    """Render the run's own template; None where there is none, or it fails."""
    folder = facts.kept
    template = _template(folder) if folder else None
    if not folder or not template or len(template) > LONGEST_TEMPLATE:
        return None
    task = {
        "template": template,
        "tokens": _tokens(json_object(folder / SETTINGS)),
        "special": sorted(set(_special(json_object(folder / SETTINGS)))),
        "messages": messages_of(facts),
        # Some templates write the date: the run's day, so that its card stays the same.
        "today": facts.run.status()["created"] // DAY * DAY,
    }
    return _rendered(json.dumps(task))


def messages_of(facts: Facts) -> list[dict[str, str]]:
    """An example conversation: the recipe's system prompt, a question and the tuned answer."""
    question, answer = first_pair(facts) or (next(iter(facts.recipe.sample_prompts), ""), "")
    turns = [
        ("system", shortened(facts.recipe.dataset.system_prompt or "", LONGEST_SYSTEM)),
        ("user", shortened(question, LONGEST_TURN) or EXAMPLE[0]),
        ("assistant", shortened(answer, LONGEST_TURN) or EXAMPLE[1]),
    ]
    return [{"role": role, "content": cleaned(said)} for role, said in turns if said]


@functools.lru_cache(maxsize=32)
def _rendered(task: str) -> PromptFormat | None:
    found = rendered(json.loads(task))
    if found is None or not isinstance(found.get("text"), str):
        return None
    return PromptFormat(found["text"], str(found.get("stop") or ""), found.get("ollama"))


def _template(folder: Path) -> str | None:
    try:
        return (folder / TEMPLATE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        found = json_object(folder / SETTINGS).get("chat_template")
    return found if isinstance(found, str) else None


def _tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    known = {name: _content(settings.get(name)) for name in TOKEN_NAMES}
    return {name: content for name, content in known.items() if content}


def _special(settings: Mapping[str, Any]) -> Iterator[str]:
    """Texts of the special tokens that the tokenizer's settings name."""
    yield from _tokens(settings).values()
    for name in ("extra_special_tokens", "additional_special_tokens"):
        found = settings.get(name)
        listed = list(found.values()) if isinstance(found, dict) else found
        yield from (text for text in map(_content, listed or ()) if text)
    added = settings.get("added_tokens_decoder")
    for token in added.values() if isinstance(added, dict) else ():
        if isinstance(token, dict) and token.get("special") and (text := _content(token)):
            yield text


def _content(token: Any) -> str | None:
    """A token's text, which stands alone or among its settings."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) and found else None
