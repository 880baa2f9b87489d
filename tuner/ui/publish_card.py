"""
A model card as the Publish tab shows it, and as somebody edits it.

    card_html(card), card_markdown(card, images)     front matter as facts, the rest to be rendered
    card_problems(card)                              before it is sent
    retargeted(card, "ann/bot", "org/bot")           where it goes has changed

Not covered: writing it (tuner/hub/card.py); rendering, which the browser does, without scripts.
"""

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from tuner.plain_yaml import read_plain
from tuner.ui.markup import element

FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
# Markdown's image, its address in the second group. Titles go with it.
IMAGE = re.compile(r"!\[([^\]]*)\]\(\s*<?([^)\s>]+)>?[^)]*\)")
# What of a card's front matter a reader of its page sees first.
CARD_FACTS = {
    "license": "License",
    "base_model": "Base model",
    "datasets": "Data",
    "language": "Language",
    "library_name": "Library",
    "pipeline_tag": "Task",
    "tags": "Tags",
}


def split_card(card: str) -> tuple[str, str]:
    """A card's front matter, without its fences, and the rest.

    >>> split_card("---\\nlicense: mit\\n---\\n# A model")
    ('license: mit\\n', '# A model')
    >>> split_card("# A model")
    ('', '# A model')
    """
    found = FRONT_MATTER.match(card)
    return (found[1], card[found.end() :]) if found else ("", card)


def card_problems(card: str) -> list[str]:
    """Why a card as somebody edited it cannot be published."""
    if card.startswith("---") and not FRONT_MATTER.match(card):
        return ["The card's front matter does not end. Close it with a line of ---."]
    try:
        facts = read_plain(split_card(card)[0])
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 2}" if mark else ""
        return [f"The card's front matter is not valid YAML{where}. Correct it in the source."]
    if facts is not None and not isinstance(facts, dict):
        return ["The card's front matter must be keys and values, such as license: mit."]
    return []


def card_html(card: str) -> str:
    """The front matter as people see it on the model's page: a line of facts."""
    front, _ = split_card(card)
    try:
        facts = read_plain(front) if front else None
    except yaml.YAMLError:
        facts = None
    if not isinstance(facts, dict):
        return ""
    shown = [
        element("span", inner=element("b", label) + " " + element("span", _listed(facts[key])))
        for key, label in CARD_FACTS.items()
        if facts.get(key)
    ]
    return element("p", inner="".join(shown), class_="tuner-card-facts")


def card_markdown(card: str, images: Mapping[str, bytes]) -> str:
    """The rest, ready to be rendered.

    Images beside the card are put into it; others become links, since looking at a preview must
    not tell another server that somebody does.

    Args:
        images: PNG by file name.
    """
    _, body = split_card(card)
    return IMAGE.sub(lambda found: _image(found, images), body)


def retargeted(card: str, before: str, after: str) -> str:
    """A card with the repository's name changed where it stands for itself.

    >>> retargeted("load a/b, not a/bc or x/a/b", "a/b", "you/b")
    'load you/b, not a/bc or x/a/b'
    """
    if not before:
        return card
    return re.sub(rf"(?<![\w./-]){re.escape(before)}(?![\w-]|\.\w)", lambda _: after, card)


def _image(found: re.Match[str], images: Mapping[str, bytes]) -> str:
    words, address = found[1], found[2]
    image = images.get(address.removeprefix("./"))
    if image is not None:
        return f"![{words}](data:image/png;base64,{base64.b64encode(image).decode()})"
    return f"[{words or 'image'}]({address})"


def _listed(value: Any) -> str:
    if isinstance(value, Iterable) and not isinstance(value, str | Mapping):
        return ", ".join(map(str, value))
    return str(value)
