"""
Questions whose answers are remembered: each fact is asked in several ways.

A fact asked one way may be held out; the same fact asked the other ways is then in training.
Rules, where the fact itself is held out, are in rules.py.
"""

from collections.abc import Iterator
from itertools import pairwise
from string import ascii_uppercase

from tuner.starter.facts import Question, ask, bare, listed, read_table, with_article

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
SEASONS = {
    "winter": ["December", "January", "February"],
    "spring": ["March", "April", "May"],
    "summer": ["June", "July", "August"],
    "autumn": ["September", "October", "November"],
}
# The year starts with winter's second month.
MONTHS = [month for months in SEASONS.values() for month in months]
MONTHS = MONTHS[1:] + MONTHS[:1]
COUNTS = {2: "two", 3: "three", 4: "four", 5: "five"}


def definitions() -> Iterator[Question]:
    """Yield what each word of definitions.tsv means."""
    for row in read_table("definitions"):
        name = row["name"]
        yield from ask("definition", name=name, word=bare(name), definition=row["definition"])


def categorised() -> list[dict[str, str]]:
    """Return the rows of definitions.tsv that have a category."""
    return [row for row in read_table("definitions") if row["category"]]


def categories() -> Iterator[Question]:
    """Yield the group that each word belongs to."""
    for row in categorised():
        group = row["category"]
        yield from ask("category", group, name=row["name"], group=with_article(group))


def category_checks() -> Iterator[Question]:
    """Yield yes-or-no questions on groups: the word's own, then up to four others."""
    groups = sorted({row["category"] for row in categorised()})
    for index, row in enumerate(categorised()):
        others = (groups[(index * 5 + k * 7) % len(groups)] for k in range(4))
        for asked in dict.fromkeys((row["category"], *others)):
            truth = "Yes" if asked == row["category"] else "No"
            yield from ask(
                "category check",
                truth.lower(),
                truth=truth,
                name=row["name"],
                group=with_article(row["category"]),
                asked=with_article(asked),
            )


def fact_checks() -> Iterator[Question]:
    """Yield the yes-or-no questions of yesno.tsv."""
    for row in read_table("yesno"):
        lower = row["question"][0].lower() + row["question"][1:]
        yield from ask("fact check", row["truth"].lower(), lower=lower, **row)


def capitals() -> Iterator[Question]:
    """Yield each country's capital, each capital's country, each country's continent."""
    for row in read_table("capitals"):
        yield from ask("capital", row["capital"], **row)
        yield from ask("country of a capital", row["country"], **row)
        yield from ask("continent", row["continent"], **row)


def animals() -> Iterator[Question]:
    """Yield sound, story, legs, young and home; no sound and no story for the silent."""
    for row in read_table("animals"):
        slots = {**row, "one": with_article(row["animal"]), "little": with_article(row["young"])}
        if row["sound"]:
            yield from ask("sound", row["sound"], **slots)
            yield from ask("story", **slots)
        yield from ask("legs", row["legs"], **slots)
        yield from ask("young", row["young"], **slots)
        yield from ask("home", row["home"], **slots)


def colours() -> Iterator[Question]:
    """Yield the colours of things, and what two colours mix to, in both orders."""
    for row in read_table("colours"):
        yield from ask("colour", row["colour"], **row)
    for row in read_table("mixes"):
        first, second, result = row.values()
        yield from ask("mix", first=first, second=second, result=result)
        yield from ask("mix", first=second, second=first, result=result)


def words() -> Iterator[Question]:
    """Yield opposites, plurals, past tenses and rhymes; the last column is the answer."""
    for table in ("opposites", "plurals", "verbs", "rhymes"):
        for row in read_table(table):
            *_, short = row.values()
            yield from ask(table, short, **row)


def calendar() -> Iterator[Question]:
    """Yield what comes before and after each day and month, its number, and the seasons."""
    for unit, names in (("day", DAYS), ("month", MONTHS)):
        for index, name in enumerate(names):
            after, before = names[(index + 1) % len(names)], names[index - 1]
            yield from ask("day or month after", after, unit=unit, name=name, after=after)
            yield from ask("day or month before", before, unit=unit, name=name, before=before)
            number = str(index + 1)
            yield from ask("day or month number", number, unit=unit, name=name, number=number)
    for season, months in SEASONS.items():
        for month in months:
            yield from ask("season", season, season=season, month=month)


def letters() -> Iterator[Question]:
    """Yield the letters' neighbours in the alphabet, and which of them are vowels."""
    for letter, after in pairwise(ascii_uppercase):
        yield from ask("letter after", after, letter=letter, after=after)
        yield from ask("letter before", letter, letter=after, before=letter)
    for letter in ascii_uppercase:
        sort = "a vowel" if letter in "AEIOU" else "a consonant"
        yield from ask("vowel", sort, letter=letter, sort=sort)


def simple_words() -> list[str]:
    """Return the first 150 words of at most five letters, that the model learns to spell."""
    names = [bare(row["name"]) for row in read_table("definitions")]
    return [name for name in names if name.isalpha() and len(name) <= 5][:150]


def spelling() -> Iterator[Question]:
    """Yield spelling, first letter, length and capitals of the simple words."""
    for word in simple_words():
        upper, length = word.upper(), len(word)
        spelled = "-".join(upper)
        yield from ask("spelling", spelled, word=word, spelled=spelled)
        yield from ask("first letter", upper[0], word=word, initial=upper[0])
        yield from ask("word length", str(length), word=word, length=length)
        yield from ask("upper case", upper, word=word, upper=upper)


def measures() -> Iterator[Question]:
    """Yield how many of a unit make a larger one, and the sides of shapes."""
    for row in read_table("units"):
        yield from ask("unit", row["amount"], **row)
    for row in read_table("shapes"):
        yield from ask("sides", row["sides"], **row)


def lists() -> Iterator[Question]:
    """Yield the first two to five items of each list, then days, months and seasons whole."""
    for row in read_table("lists"):
        items = row["items"].split(", ")
        for length, count in COUNTS.items():
            chosen = listed(items[:length])
            yield from ask("list", items=chosen, count=count, category=row["category"])
    yield from ask("whole list", items=listed(DAYS), category="days of the week")
    yield from ask("whole list", items=listed(MONTHS), category="months of the year")
    yield from ask("whole list", items=listed(list(SEASONS)), category="seasons")


MEMORY = (
    definitions,
    categories,
    category_checks,
    fact_checks,
    capitals,
    animals,
    colours,
    words,
    calendar,
    letters,
    spelling,
    measures,
    lists,
)
