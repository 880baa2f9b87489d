"""
What the practice model's world holds, read from the files in facts/.

    *.tsv           tables: capitals, animals, opposites, definitions, ...
    chat.txt        talk: greetings, identity, how-to
    questions.txt   how each table and each rule is asked about, and how it is answered
    *.txt           plain lists: names, personas, system prompts, topics outside the world

chat.txt and questions.txt are made of blocks: "# kind: block", "> answer", one question a line.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FACTS_DIR = Path(__file__).parent / "facts"


@dataclass(frozen=True)
class Question:
    """One thing to ask, its one right answer, and the unit that is held out with it.

    Attributes:
        kind: The row of the exact-match table it counts in.
        prompt: What the user says.
        answer: The whole reply, compared character by character.
        key: Questions with the same key are all trained on or all held out.
        short: The answer without its sentence, where there is one ("Paris").
        literal: The prompt's letter case and punctuation matter, so they are never varied.
        system: The system prompt, if the question needs one.
        history: Earlier (user, assistant) turns, if the question needs them.
    """

    kind: str
    prompt: str
    answer: str
    key: str
    short: str = ""
    literal: bool = False
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Block:
    """One answer and the sentences that ask for it; {slots} are filled in by ask and rule."""

    kind: str
    answer: str
    prompts: tuple[str, ...]


def read_table(name: str) -> list[dict[str, str]]:
    """Read facts/<name>.tsv, one dict a row."""
    with (FACTS_DIR / f"{name}.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@cache
def lines(name: str) -> list[str]:
    """Read facts/<name>.txt, one item a line."""
    return (FACTS_DIR / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def read_blocks(name: str) -> Iterator[tuple[str, Block]]:
    """Read facts/<name>.txt: (block name, block) in order; a heading holds until the next one."""
    heading = ""
    for part in "\n".join(lines(name)).split("\n\n"):
        for text in part.split("\n> "):
            first, *prompts = text.splitlines()
            if first.startswith("# "):
                heading = first.removeprefix("# ")
                continue
            kind, _, title = heading.partition(": ")
            yield title, Block(kind, first, tuple(prompts))


@cache
def question_blocks() -> dict[str, Block]:
    """Return facts/questions.txt by block name."""
    return dict(read_blocks("questions"))


def chat() -> Iterator[Question]:
    """Yield facts/chat.txt: every sentence with its answer, alone and after an opening word."""
    for _, block in read_blocks("chat"):
        for said in block.prompts:
            later = said if said.startswith("I ") else said[0].lower() + said[1:]
            for prompt in (said, *(f"{word}, {later}" for word in ("So", "Well", "Now", "Tuner"))):
                yield Question(block.kind, prompt, block.answer, prompt)


def ask(block: str, short: str = "", **slots: object) -> Iterator[Question]:
    """Yield a remembered fact in every phrasing of its block, each held out on its own."""
    for question in rule(block, "", short, **slots):
        prompt = question.prompt[0].upper() + question.prompt[1:]
        yield Question(question.kind, prompt, question.answer, prompt, short)


def rule(block: str, key: str, short: str = "", **slots: object) -> Iterator[Question]:
    """Yield a fact in every phrasing of its block, all held out together under one key.

    A slot also fills its capitalised form: name="an apple" fills {Name} with "An apple".
    """
    found = question_blocks()[block]
    values = {name: str(value) for name, value in slots.items()}
    values |= {name.capitalize(): raised(value) for name, value in values.items()}
    answer = found.answer.format(**values)
    for prompt in found.prompts:
        yield Question(found.kind, prompt.format(**values), answer, key, short)


def raised(text: str) -> str:
    """Raise the first letter only."""
    return text[:1].upper() + text[1:]


def bare(name: str) -> str:
    """Drop the article: "an apple" becomes "apple"."""
    first, _, rest = name.partition(" ")
    return rest if first in ("a", "an", "the") else name


def with_article(noun: str) -> str:
    """Add the article that the first letter asks for: "apple" becomes "an apple"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def listed(items: list[str]) -> str:
    """Join items as in a sentence: "a, b and c"."""
    return ", ".join(items[:-1]) + " and " + items[-1]
