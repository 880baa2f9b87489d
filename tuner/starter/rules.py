"""
Questions whose answers follow a rule: sums, counting, lists of words to copy or turn around.

What is held out is the fact itself (a pair of numbers, a list of words), in every phrasing.
Times tables, doubles and number words are remembered facts and are held out by phrasing.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from tuner.starter.facts import Question, ask, bare, read_table, rule, with_article
from tuner.starter.memory import categorised

LARGEST_SUM = 100
SMALL = 10
LARGEST_FACTOR = 12
UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
THINGS = (
    "apples pears books coins stones eggs balls cups pens hats keys cakes stamps shells cards"
).split()
REPEATS = (
    "Repeat:\n{t}",
    "Say this:\n{t}",
    "Repeat after me:\n{t}",
    "Copy this:\n{t}",
    "Please repeat:\n{t}",
    "Write this:\n{t}",
    "Echo:\n{t}",
)


def number_word(number: int) -> str:
    """Write 0 to 100 in words: 47 becomes "forty-seven"."""
    if number < len(UNITS):
        return UNITS[number]
    if number == LARGEST_SUM:
        return "one hundred"
    tens, unit = divmod(number, 10)
    return TENS[tens - 2] + (f"-{UNITS[unit]}" if unit else "")


def sum_key(a: int, b: int) -> str:
    """Return one key for a + b and b + a: the turned pair would give a held-out sum away."""
    return f"{min(a, b)}+{max(a, b)}"


def steps(a: int, sign: str, b: int) -> str:
    """Return a sum worked out as taught in school, tens first.

    >>> steps(36, "+", 29)
    '36 + 20 = 56, and 56 + 9 = 65'
    """
    tens, unit = b - b % 10, b % 10
    direction = 1 if sign == "+" else -1
    between, result = a + direction * tens, a + direction * b
    if not (tens and unit):
        return f"{a} {sign} {b} = {result}"
    return f"{a} {sign} {tens} = {between}, and {between} {sign} {unit} = {result}"


def sums() -> Iterator[Question]:
    """Sums up to 10 + 10 are remembered; of the others, pairs are held out."""
    for a in range(LARGEST_SUM + 1):
        for b in range(LARGEST_SUM + 1 - a):
            yield from _one_sum("sum", a, "+", b, a + b, sum_key(a, b))


def differences() -> Iterator[Question]:
    """Yield a - b for every b up to a, up to 100."""
    for a in range(LARGEST_SUM + 1):
        for b in range(a + 1):
            yield from _one_sum("difference", a, "-", b, a - b, f"{a}-{b}")


def _one_sum(block: str, a: int, sign: str, b: int, result: int, key: str) -> Iterator[Question]:
    slots = {"a": a, "b": b, "working": steps(a, sign, b)}
    if max(a, b) > SMALL:
        yield from rule(block, key, str(result), **slots)
    else:
        for question in ask(block, str(result), **slots):
            yield replace(question, kind="small sums")


def tables() -> Iterator[Question]:
    """Yield the products up to 12 x 12, and the divisions that undo them."""
    for a in range(LARGEST_FACTOR + 1):
        for b in range(LARGEST_FACTOR + 1):
            yield from ask("product", str(a * b), a=a, b=b, result=a * b)
            if a > 0:
                yield from ask("quotient", str(b), a=a * b, b=a, result=b)


def doubles() -> Iterator[Question]:
    """Yield the doubles of 0 to 50, and the halves that undo them."""
    for number in range(LARGEST_SUM // 2 + 1):
        yield from ask("double", str(2 * number), a=number, result=2 * number)
        yield from ask("half", str(number), a=2 * number, result=number)


def number_words() -> Iterator[Question]:
    """Yield 0 to 100 from digits to words and back."""
    for number in range(LARGEST_SUM + 1):
        word = number_word(number)
        yield from ask("number in words", word, number=number, word=word)
        yield from ask("number in digits", str(number), number=number, word=word)


def counting() -> Iterator[Question]:
    """Yield a number's neighbours, even or odd, and counting up over three to ten numbers."""
    for a in range(201):
        yield from rule("number after", f"after {a}", str(a + 1), a=a, result=a + 1)
        yield from rule("number before", f"before {a + 1}", str(a), a=a + 1, result=a)
        parity = "odd" if a % 2 else "even"
        yield from rule("parity", str(a), parity, a=a, result=parity)
    for a in range(51):
        for b in range(a + 2, a + 10):
            numbers = ", ".join(str(number) for number in range(a, b + 1))
            yield from rule("range", f"{a}..{b}", a=a, b=b, result=numbers)


def comparisons() -> Iterator[Question]:
    """Yield which of two numbers up to 100 is bigger and which is smaller."""
    for a in range(101):
        for b in range(101):
            low, high = min(a, b), max(a, b)
            if low < high:
                key = f"{low},{high}"
                yield from rule("bigger", key, str(high), a=a, b=b, result=high, other=low)
                yield from rule("smaller", key, str(low), a=a, b=b, result=low, other=high)


def word_problems() -> Iterator[Question]:
    """Yield sums and differences of 1 to 10 things, in sentences."""
    for things in THINGS:
        for a in range(1, SMALL + 1):
            for b in range(1, SMALL + 1):
                yield from _one_problem(a, b, things)


def _one_problem(a: int, b: int, things: str) -> Iterator[Question]:
    total, rest, key = str(a + b), str(a - b), f"{a} {things} {b}"
    yield from rule("more", key, total, a=a, b=b, things=things, result=total)
    if a > b:
        yield from rule("fewer", key, rest, a=a, b=b, things=things, result=rest)


def known_words() -> list[str]:
    """Return the one-word names of definitions and the words of three tables, sorted."""
    names = {bare(row["name"]) for row in read_table("definitions")}
    for table, column in (("opposites", "word"), ("verbs", "verb"), ("rhymes", "word")):
        names.update(row[column] for row in read_table(table))
    return sorted(name for name in names if name.isalpha())


def repeats(rng: random.Random, size: int = 3000) -> Iterator[Question]:
    """Yield random texts of one to six words to say again."""
    vocabulary = known_words()
    for _ in range(size):
        text = " ".join(rng.sample(vocabulary, rng.randint(1, 6)))
        for phrasing in REPEATS:
            yield Question("repeating", phrasing.format(t=text), text, text, literal=True)


def word_lists(rng: random.Random, size: int = 6000) -> Iterator[Question]:
    """Yield what can be asked about random lists of two to five words."""
    vocabulary = known_words()
    for _ in range(size):
        yield from _list_questions(rng.sample(vocabulary, rng.randint(2, 5)))


def _list_questions(items: Sequence[str]) -> Iterator[Question]:
    text = ", ".join(items)
    backwards = ", ".join(reversed(items))
    yield from rule("reversed list", text, backwards, text=text, result=backwards)
    yield from rule("first of a list", text, items[0], text=text, result=items[0])
    yield from rule("last of a list", text, items[-1], text=text, result=items[-1])
    yield from rule("words in a list", text, text=text, result=UNITS[len(items)])


def choices(rng: random.Random, size: int = 2500) -> Iterator[Question]:
    """Which of three things, all of different groups, is a fruit (a tool, a place)?"""
    rows = categorised()
    for _ in range(size):
        chosen = rng.sample(rows, 3)
        if len({row["category"] for row in chosen}) == len(chosen):
            names = [row["name"] for row in chosen]
            key, right = " ".join(sorted(names)), names[0]
            rng.shuffle(names)
            slots = dict(zip("abc", names, strict=True))
            group = with_article(chosen[0]["category"])
            yield from rule("choice", key, right=right, group=group, **slots)


RULES = (
    sums,
    differences,
    tables,
    doubles,
    number_words,
    counting,
    comparisons,
    word_problems,
)
SAMPLED_RULES: tuple[Callable[[random.Random], Iterator[Question]], ...] = (
    repeats,
    word_lists,
    choices,
)
