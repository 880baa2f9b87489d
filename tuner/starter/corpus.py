"""
The practice model's corpus: questions, split into training and held-out, and conversations.

    python -m tuner.starter.corpus        # prints a few conversations

A question is held out with everything that shares its key (facts.Question.key), and no
training prompt equals a held-out prompt after letter case and punctuation are dropped (the signs
of arithmetic are kept).
Everything follows from the seed.
"""

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from tuner.starter.dialogue import DIALOGUES, neutral_system, styled
from tuner.starter.facts import Question, chat
from tuner.starter.memory import MEMORY
from tuner.starter.rules import RULES, SAMPLED_RULES

Message = dict[str, str]
HELD_OUT_SHARE = 0.08
# Signs of arithmetic stay: 7 + 5 and 7 - 5 are different questions. Bars stand between turns.
NOT_COMPARED = re.compile(r"[^a-z0-9+\-*/=|]")
WEIGHTS = {
    "definitions": 11, "capitals": 8, "categories": 3, "yes or no": 5, "animals": 5, "stories": 2,
    "colours": 3.5, "opposites": 3.5, "plurals": 3, "verbs": 3, "rhymes": 1.5, "days and months": 4,
    "alphabet": 3, "spelling": 6, "upper case": 4, "measures": 3, "lists": 4, "small sums": 6,
    "addition": 13, "subtraction": 13, "times tables": 8, "division": 6, "doubles and halves": 4,
    "number words": 4, "counting": 6, "even or odd": 1.5, "comparing": 5, "word problems": 5,
    "repeating": 3, "reversing": 4, "picking": 4, "counting words": 2, "choosing": 4,
    "outside its world": 6, "names": 1.5, "remembering": 3, "system prompt": 7, "greeting": 6,
    "identity": 6, "how-to": 2, "jokes and poems": 1.5,
}  # fmt: skip


@dataclass(frozen=True)
class Corpus:
    """Questions by kind, in a fixed order."""

    train: dict[str, list[Question]]
    held_out: dict[str, list[Question]]


def normalised(question: Question) -> str:
    """Return the whole conversation before the answer, without case, punctuation or spaces."""
    earlier = (turn for pair in question.history for turn in pair)
    return NOT_COMPARED.sub("", "|".join((question.system, *earlier, question.prompt)).lower())


def all_questions(rng: random.Random) -> list[Question]:
    """Return every question there is, once per distinct prompt; questions in a style come later."""
    questions = [*chat()]
    for source in (*MEMORY, *RULES, *DIALOGUES):
        questions.extend(source())
    for sampled in SAMPLED_RULES:
        questions.extend(sampled(rng))
    return list({normalised(item): item for item in reversed(questions)}.values())[::-1]


@cache
def is_held_out(key: str, seed: int) -> bool:
    """Decide by the key alone, so that a pair of numbers is held out in every phrasing."""
    return random.Random(f"{seed}:{key}").random() < HELD_OUT_SHARE


def build_corpus(seed: int = 0) -> Corpus:
    """Split all questions by key, then add both halves' questions under a style of answering."""
    rng = random.Random(seed)
    halves: dict[bool, list[Question]] = {False: [], True: []}
    for question in all_questions(rng):
        halves[is_held_out(question.key, seed)].append(question)
    for half in halves.values():
        half.extend(list(styled(half, rng)))
    return Corpus(by_kind(halves[False]), by_kind(halves[True]))


def by_kind(questions: Iterable[Question]) -> dict[str, list[Question]]:
    """Group questions, kinds in order of first appearance."""
    groups: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        groups[question.kind].append(question)
    return dict(groups)


def varied(question: Question, rng: random.Random) -> str:
    """Return the prompt as people type it: no capitals, no full stop, or a polite word before."""
    prompt = question.prompt
    if question.literal:
        return prompt
    if rng.random() < 0.06:
        prompt = rng.choice(("Please: ", "One more: ", "Next: ", "Quick question: ")) + prompt
    style = rng.random()
    if style < 0.35:
        prompt = prompt.lower()
    if 0.15 < style < 0.5:
        prompt = prompt.rstrip(".?!")
    return prompt


def turns(question: Question, rng: random.Random) -> list[Message]:
    """Return the user and assistant messages of one question, earlier turns included."""
    pairs = [*question.history, (varied(question, rng), question.answer)]
    return [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def conversations(
    corpus: Corpus, rng: random.Random, long: bool = False
) -> Iterator[list[Message]]:
    """Yield training conversations without end.

    Args:
        corpus: Only its training half is read.
        rng: Decides everything.
        long: Draw 12 to 60 questions for a conversation instead of 1 to 4.
    """
    kinds = list(corpus.train)
    weights = [WEIGHTS[kind] for kind in kinds]
    while True:
        count = rng.randint(12, 60) if long else rng.choice((1, 1, 1, 1, 1, 2, 2, 3, 4))
        chosen = [rng.choice(corpus.train[kind]) for kind in rng.choices(kinds, weights, k=count)]
        yield conversation(chosen, rng)


def conversation(chosen: Iterable[Question], rng: random.Random) -> list[Message]:
    """Join questions into one conversation; a question with its own system prompt stands alone."""
    first, *rest = chosen
    messages = turns(first, rng)
    if first.system:
        return [{"role": "system", "content": first.system}, *messages]
    for question in rest:
        if not (question.system or question.history or question.kind == "identity"):
            messages += turns(question, rng)
    if first.kind != "identity" and rng.random() < 0.12:
        messages.insert(0, {"role": "system", "content": neutral_system(rng)})
    return messages


def held_out_sample(corpus: Corpus, per_kind: int, seed: int = 0) -> list[Question]:
    """Return up to per_kind held-out questions of each kind."""
    rng = random.Random(seed)
    return [
        question
        for kind in sorted(corpus.held_out)
        for question in rng.sample(corpus.held_out[kind], min(per_kind, len(corpus.held_out[kind])))
    ]


def prompt_messages(question: Question) -> list[Message]:
    """Return the messages up to and including the question."""
    messages = [{"role": "system", "content": question.system}] if question.system else []
    for user, assistant in question.history:
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return [*messages, {"role": "user", "content": question.prompt}]


if __name__ == "__main__":
    corpus = build_corpus()
    rng = random.Random(1)
    for _, messages in zip(range(20), conversations(corpus, rng), strict=False):
        print(
            *(f"{message['role']}: {message['content']}" for message in messages),
            sep="\n",
            end="\n\n",
        )
