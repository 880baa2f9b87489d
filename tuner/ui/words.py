"""Sentences of the engine in the page's terms: its controls instead of the shell's options."""

import re
from collections.abc import Iterable

# Where a run ended without a checkpoint, its reason ends with the command that begins a new one.
BEGIN_COMMAND = re.compile(r"(Start again|Resume it, or begin a new one): `[^`]+`\.?")
MAP_OPTION = re.compile(r'--map (?:"([^"]+)"|(\S+))')
SKIP_OPTION = "--skip-bad-rows (dataset.skip_bad_rows)"


def page_words(sentence: str) -> str:
    """A sentence for the page.

    >>> page_words('Say which is what, for example --map prompt=q --map "answer=the reply"')
    'Say which is what, for example prompt ← q, answer ← the reply'
    """
    told = MAP_OPTION.sub(lambda found: (found[1] or found[2]).replace("=", " ← ", 1), sentence)
    told = re.sub(r"( ← \S.*?) (?=\w+ ← )", r"\1, ", told)
    told = BEGIN_COMMAND.sub("Start again with changes begins a new one.", told)
    return told.replace(SKIP_OPTION, "“Leave unreadable rows out”")


def all_in_page_words(sentences: Iterable[str]) -> list[str]:
    """Several sentences for the page."""
    return [page_words(sentence) for sentence in sentences]
