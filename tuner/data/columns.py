"""
Column names: found whatever their case, spaces and hyphens; mapped by the user; suggested.

    --map prompt=QUESTION,CONTEXTS --map answer=LONG_ANSWER

arrives here as {"prompt": "QUESTION,CONTEXTS", "answer": "LONG_ANSWER"}.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tuner.errors import DatasetError

# What a column can be mapped to.
ROLES = ("system", "prompt", "answer", "text", "messages", "chosen", "rejected", "label")

_PROMPT_HINTS = ("question", "prompt", "instruct", "query", "input", "problem", "title", "original")
_ANSWER_HINTS = ("answer", "response", "output", "reply", "complet", "summary", "solution", "expla")
_SHOWN = 40  # columns named in one sentence

Roles = dict[str, list[str]]  # role → columns


class Columns:
    """The columns of a data set, in order, and how to find one."""

    def __init__(self, names: Iterable[str]):
        self.names = list(names)
        self._by_spelling: dict[str, str] = {}
        for name in self.names:
            self._by_spelling.setdefault(_spelling(name), name)

    def find(self, *wanted: str) -> str | None:
        """The first of the wanted names that is a column, as it is spelled here."""
        return next(iter(self.all_of(wanted)), None)

    def all_of(self, wanted: Iterable[str]) -> list[str]:
        """All wanted names that are columns, as they are spelled here, in the order wanted."""
        found = [self._by_spelling.get(_spelling(name)) for name in wanted]
        return list(dict.fromkeys(name for name in found if name is not None))

    def nearest(self, name: str) -> str | None:
        """The column that a misspelled name most likely means."""
        near = difflib.get_close_matches(_spelling(name), self._by_spelling, n=1, cutoff=0.5)
        return self._by_spelling[near[0]] if near else None

    def shown(self) -> str:
        """All names for a sentence, shortened where there are very many."""
        more = len(self.names) - _SHOWN
        names = [name[:60] for name in self.names[:_SHOWN]]
        return ", ".join([*names, f"and {more} more"] if more > 0 else names) or "none"


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def read_mapping(mapping: Mapping[str, Any], columns: Columns, name: str) -> Roles:
    """The user's mapping as lists of columns, spelled as they are in the file.

    Args:
        mapping: Role → a column, several separated by commas, or a list of columns.
        name: The file, for the sentences.

    Raises:
        DatasetError: Every unknown role and column, each with the nearest known one.
    """
    roles: Roles = {}
    problems = []
    for role, value in mapping.items():
        if role not in ROLES:
            problems.append(_unknown_role(role))
            continue
        found = [(wanted, columns.find(wanted)) for wanted in _wanted(value, columns)]
        roles[role] = [column for _, column in found if column]
        problems += [
            _missing(role, wanted, columns, name) for wanted, column in found if not column
        ]
    if problems:
        raise DatasetError(problems)
    return {role: found for role, found in roles.items() if found}


def suggested_mapping(columns: Columns, sample: Sequence[Mapping[str, Any]]) -> str:
    """Options for the command line that would map these columns, at a guess."""
    guess = suggested_roles(columns, sample) or {"text": "COLUMN"}
    return " ".join(_option(role, column) for role, column in guess.items())


def suggested_roles(columns: Columns, sample: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Role → column, at a guess: by their names, else by how much text they hold."""
    lengths = {name: _mean_length(name, sample) for name in columns.names}
    prose = [name for name in columns.names if lengths[name] > 0]
    if len(prose) < 2:
        texts = (prose or columns.names)[:1]
        return {"text": texts[0]} if texts else {}
    answers = _hinted(prose, _ANSWER_HINTS) or prose
    answer = max(answers, key=lengths.__getitem__)
    rest = [name for name in prose if name != answer]
    prompt = (_hinted(rest, _PROMPT_HINTS) or sorted(rest, key=lengths.__getitem__)[::-1])[0]
    return {"prompt": prompt, "answer": answer}


def _spelling(name: str) -> str:
    return re.sub(r"[\s\-]+", "_", str(name).strip("\ufeff \t\r\n").casefold())


def _wanted(value: Any, columns: Columns) -> list[str]:
    if isinstance(value, str):
        # A column may have a comma in its own name.
        value = [value] if columns.find(value) else value.split(",")
    return [str(part).strip() for part in value if str(part).strip()]


def _unknown_role(role: str) -> str:
    near = difflib.get_close_matches(role, ROLES, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    return f"columns.{role} is not something a column can be. {hint}There are {listed(ROLES)}."


def _missing(role: str, wanted: str, columns: Columns, name: str) -> str:
    near = columns.nearest(wanted)
    hint = f" Did you mean {near}?" if near else ""
    return f"columns.{role}={wanted} is not a column of {name}, which has {columns.shown()}.{hint}"


def _option(role: str, column: str) -> str:
    option = f"{role}={column}"
    return f"--map {option}" if re.fullmatch(r"[\w=.-]+", option) else f'--map "{option}"'


def _hinted(names: list[str], hints: tuple[str, ...]) -> list[str]:
    return [name for name in names if any(hint in name.casefold() for hint in hints)]


def _mean_length(name: str, sample: Sequence[Mapping[str, Any]]) -> float:
    """Characters of text per row; lists of text count, numbers don't."""
    total = 0
    for row in sample:
        value = row.get(name)
        if isinstance(value, str | list) and not str(value).replace(".", "").isdigit():
            total += len(str(value))
    return total / len(sample) if sample else 0.0
