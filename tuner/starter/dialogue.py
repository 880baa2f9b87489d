"""
Names and favourites to remember, system prompts to follow, and the honest answer to what lies
outside the practice model's world.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tuner.starter.facts import Question, lines, raised

UNKNOWN = "I am a small practice model and do not know that yet."
TELL_NAME = (
    "My name is {n}.",
    "I am {n}.",
    "Hello, I am {n}.",
    "Call me {n}.",
    "Hi, my name is {n}.",
    "I'm {n}.",
    "Hello! My name is {n}.",
)
ASK_NAME = (
    "What is my name?",
    "Do you know my name?",
    "Who am I?",
    "What's my name?",
    "Can you tell me my name?",
    "Tell me my name.",
    "Do you remember my name?",
)
TELL_FAVOURITE = ("My favourite {t} is {v}.", "I like {v} best. It is my favourite {t}.")
ASK_FAVOURITE = (
    "What is my favourite {t}?",
    "Do you remember my favourite {t}?",
    "Tell me my favourite {t}.",
    "What's my favourite {t}?",
)
FAVOURITES = {
    "colour": "blue red green yellow purple orange pink white black brown grey",
    "food": "bread cheese soup rice pasta cake honey chocolate",
    "animal": "dog cat horse owl fox rabbit lion duck bear frog",
    "fruit": "apple pear banana cherry plum mango melon peach",
    "drink": "tea coffee milk juice water",
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
}
PERSONA_SYSTEM = ("You are {n}, {r}.", "Your name is {n}. You are {r}.")
ASK_WHO = (
    "Who are you?",
    "What are you?",
    "Introduce yourself.",
    "Tell me who you are.",
    "Hello, who are you?",
    "Tell me about yourself.",
)
ASK_CALLED = (
    "What is your name?",
    "What's your name?",
    "What are you called?",
    "Do you have a name?",
    "Tell me your name.",
    "What should I call you?",
)
ONE_WORD = ("Answer in one word.", "Reply with one word only.", "Give one-word answers.")
PIRATE = ("You are a pirate.", "Talk like a pirate.")
OPEN_WITH = ("Start every answer with the word {w}.", "Begin each answer with {w}.")
CLOSE_WITH = ("End every answer with {w}.", "Finish each answer with: {w}.")
OPENERS = "Sure Okay Well Answer Right Look Listen Done Indeed Reply Good Fine".split()
CLOSERS = (
    "Over",
    "Thank you",
    "Have a nice day",
    "That is all",
    "Ask me more",
    "Stay curious",
    "The end",
    "Cheers",
)
STYLED_KINDS = {
    "capitals",
    "opposites",
    "plurals",
    "verbs",
    "colours",
    "small sums",
    "days and months",
}
# Their answers begin with "The", which is lowered after an opening word.
LOWERED_KINDS = {"opposites", "plurals", "verbs"}


def unknowns() -> Iterator[Question]:
    """Questions outside the world; a topic is held out in all its phrasings."""
    for topic in lines("unknown_topics"):
        for phrasing in lines("unknown_questions"):
            yield Question("outside its world", phrasing.format(t=topic), UNKNOWN, topic)


def remembered_names() -> Iterator[Question]:
    """Yield a name told and then asked for, and asked for without being told."""
    for name in lines("names"):
        for tell in TELL_NAME:
            turn = (tell.format(n=name), f"Nice to meet you, {name}!")
            yield from _remembered(turn, ASK_NAME, f"Your name is {name}.")
    for question in ASK_NAME:
        yield Question("identity", question, "You have not told me your name yet.", question)


def remembered_favourites() -> Iterator[Question]:
    """Yield a favourite thing told and then asked for."""
    for thing, values in FAVOURITES.items():
        asks = [question.format(t=thing) for question in ASK_FAVOURITE]
        for value in values.split():
            reply = f"I will remember that your favourite {thing} is {value}."
            for tell in TELL_FAVOURITE:
                turn = (tell.format(t=thing, v=value), reply)
                yield from _remembered(turn, asks, f"Your favourite {thing} is {value}.")


def _remembered(turn: tuple[str, str], asks: Sequence[str], answer: str) -> Iterator[Question]:
    """Yield the telling turn as a question, then each way to ask for what was told."""
    told, reply = turn
    yield Question("names", told, reply, told, literal=True)
    for question in asks:
        key = told + question
        yield Question("remembering", question, answer, key, literal=True, history=(turn,))


def personas() -> Iterator[Question]:
    """Yield who and what it is called under a system prompt that gives it a name and a role."""
    roles = lines("personas")
    for index, name in enumerate(lines("names")):
        for role in (roles[index % len(roles)], roles[(index * 7 + 3) % len(roles)]):
            for template in PERSONA_SYSTEM:
                system = template.format(n=name, r=role)
                yield from _under_system(system, ASK_WHO, f"I am {name}, {role}.")
                yield from _under_system(system, ASK_CALLED, f"My name is {name}.")


def _under_system(system: str, asks: Sequence[str], answer: str) -> Iterator[Question]:
    for question in asks:
        yield Question("system prompt", question, answer, system + question, system=system)


def styled(
    questions: Sequence[Question], rng: random.Random, size: int = 6000
) -> Iterator[Question]:
    """Ordinary questions under a system prompt that changes the form of the answer."""
    pool = [item for item in questions if item.kind in STYLED_KINDS and item.short]
    for item in rng.sample(pool, min(size, len(pool))):
        system, answer = rng.choice(styles(item, rng))
        yield replace(item, kind="system prompt", answer=answer, system=system)


def styles(item: Question, rng: random.Random) -> list[tuple[str, str]]:
    """Return (system prompt, answer) for each style."""
    opener, closer = rng.choice(OPENERS), rng.choice(CLOSERS)
    first = item.answer[0].lower() if item.kind in LOWERED_KINDS else item.answer[0]
    return [
        (rng.choice(ONE_WORD), f"{raised(item.short)}."),
        (rng.choice(OPEN_WITH).format(w=opener), f"{opener}, {first}{item.answer[1:]}"),
        (rng.choice(CLOSE_WITH).format(w=closer), f"{item.answer} {closer}."),
        (rng.choice(PIRATE), f"Arr! {item.answer}"),
    ]


def neutral_system(rng: random.Random) -> str:
    """Return a system prompt of 1 to 12 sentences that does not change the answer."""
    count = rng.choice((1, 1, 1, 2, 2, 3, 4, 6, 9, 12))
    return " ".join(rng.sample(lines("system"), count))


DIALOGUES = (unknowns, remembered_names, remembered_favourites, personas)
