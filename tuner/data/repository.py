"""
A code repository to instruction → source rows: every function and class that people wrote, asked
for by its name, signature, place and documentation.

The answer is the source as it stands, documentation included, so that the model learns the house
style as well; the question holds the first paragraph of the documentation only. How a question is
phrased depends on a hash of the name, so it varies but never changes between runs.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b

from tuner.data.blobs import Blob
from tuner.data.code_files import is_generated, is_own_code, language_of
from tuner.data.python_units import CodeUnit, Unparsable, python_units
from tuner.data.rows import RawRow, ReadLog
from tuner.errors import DatasetError

MEANING = "Functions and classes became rows: instruction asks for one, output is its source"

_DOCUMENTED = (
    "Write the {language} {what} `{name}` of `{file}`: {summary}",
    "In `{file}`, implement `{signature}`. {summary}",
    "{summary}\n\nWrite this as the {language} {what} `{signature}` in `{file}`.",
    "Implement the {what} `{name}` (`{signature}`) in {language}. {summary}",
)
_UNDOCUMENTED = (
    "Write the {language} {what} `{signature}` of `{file}`.",
    "Implement the {what} `{name}` in `{file}`: `{signature}`",
    "Complete this {language} {what} from `{file}`:\n\n{signature}",
)


def read_repository(blobs: Sequence[Blob], name: str, log: ReadLog) -> Iterator[RawRow]:
    """Rows with the columns instruction, output, name, and the line where the source starts.

    Args:
        blobs: All files of the repository.
        name: Of the repository, for the sentences.

    Raises:
        DatasetError: No code of its own, or no function in it.
    """
    own = [blob for blob in blobs if is_own_code(blob)]
    if not own:
        raise DatasetError(
            f"{name} holds no code of its own among its {len(blobs):,} files (tests, vendored and "
            "generated files are left out). Give the folder with the sources."
        )
    outcome = _Outcome()
    for blob in own:
        yield from outcome.rows(blob)
    for note in outcome.notes(name, len(own), len(blobs)):
        log.note(note)
    if not outcome.units:
        raise DatasetError(
            f"{name}: no function or class was found in its {len(own):,} files of code."
        )


class _Outcome:
    """What became of each file."""

    def __init__(self) -> None:
        self.units = 0
        self.languages: Counter[str] = Counter()
        self.unparsable: list[str] = []
        self.generated = 0

    def rows(self, blob: Blob) -> Iterator[RawRow]:
        """One row for each function or class of one file."""
        language = language_of(blob.name) or ""
        try:
            text = _source_text(blob)
            if is_generated(text):
                self.generated += 1
                return
            for unit in _units(text, language):
                self.units += 1
                values = {
                    "instruction": instruction(unit, blob.name, language),
                    "output": unit.source,
                    "name": unit.name,
                }
                yield RawRow(blob.name, unit.line, values)
            self.languages[language] += 1
        except (Unparsable, UnicodeDecodeError):
            self.unparsable.append(blob.name)

    def notes(self, name: str, own: int, files: int) -> Iterator[str]:
        """What was read, and what was left out."""
        read = ", ".join(f"{count:,} in {which}" for which, count in self.languages.most_common())
        yield (
            f"{name}: {self.units:,} functions and classes from {sum(self.languages.values()):,} "
            f"files ({read}); {files - own + self.generated:,} other files (tests, vendored, "
            "generated, not code) are left out."
        )
        if self.unparsable:
            more = " and others" if len(self.unparsable) > 3 else ""
            yield (
                f"{name}: {len(self.unparsable):,} files could not be parsed and are left out: "
                f"{', '.join(self.unparsable[:3])}{more}."
            )


def instruction(unit: CodeUnit, file: str, language: str) -> str:
    """The question to which a unit's source is the answer."""
    phrasings = _DOCUMENTED if unit.summary else _UNDOCUMENTED
    digest = blake2b(f"{file}:{unit.name}".encode(), digest_size=4).digest()
    return phrasings[int.from_bytes(digest, "big") % len(phrasings)].format(
        language="TypeScript" if language == "TSX" else language,
        what=unit.what,
        name=unit.name,
        file=file,
        signature=unit.signature,
        summary=unit.summary,
    )


def _source_text(blob: Blob) -> str:
    with blob.open() as stream:
        return stream.read().decode("utf-8-sig").replace("\r\n", "\n")


def _units(text: str, language: str) -> Iterator[CodeUnit]:
    if language == "Python":
        return python_units(text)
    # Only here, because a dataset of another kind needs no parser.
    from tuner.data.tree_units import tree_units

    return tree_units(text, language)
