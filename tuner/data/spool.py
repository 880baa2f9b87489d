"""
Usable examples on disk while it is not yet known which of them are used.

Of each example only two hashes stay in memory, 16 bytes, so a million rows need 16 MB.
"""

import hashlib
import os
from array import array
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from tuner.data.examples import Example, content_key, prompt_key
from tuner.data.splitting import Indices, Keys, Split
from tuner.data.stored import content_of, json_line


class Spool:
    """All usable examples, in the order of the source. A context: its file goes at the end.

    Args:
        directory: Where the sides will be written; the spool's own file stands there too.
    """

    def __init__(self, directory: Path):
        self._directory = directory
        self._path = directory / "rows.partial"
        self._stream = self._path.open("wb")
        self._contents = array("Q")
        self._prompts = array("Q")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()
        self._path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._contents)

    @property
    def contents(self) -> Keys:
        """N content keys."""
        return np.frombuffer(self._contents, dtype=np.uint64)

    @property
    def prompts(self) -> Keys:
        """N prompt keys."""
        return np.frombuffer(self._prompts, dtype=np.uint64)

    def add(self, example: Example, file: str, line: int) -> None:
        """Append one example."""
        self._contents.append(content_key(example))
        self._prompts.append(prompt_key(example))
        self._stream.write(json_line(example, file, line))

    def write_sides(self, sides: Split) -> str:
        """Copy each side's rows to its file, both written aside first.

        Returns:
            SHA-256 of the contents of both, which do not include the sources.
        """
        self._stream.close()
        chosen = {"train": sides.train, "eval": sides.held_out}
        digests = [self._write(side, indices) for side, indices in chosen.items()]
        for side in chosen:
            os.replace(self._directory / f"{side}.partial", self._directory / f"{side}.jsonl")
        return hashlib.sha256(b"".join(digests)).hexdigest()

    def _write(self, side: str, indices: Indices) -> bytes:
        digest = hashlib.sha256()
        wanted = np.zeros(len(self), dtype=bool)
        wanted[indices] = True
        with (
            self._path.open("rb") as lines,
            (self._directory / f"{side}.partial").open("wb") as file,
        ):
            for line, is_wanted in zip(lines, wanted, strict=True):
                if is_wanted:
                    file.write(line)
                    digest.update(content_of(line) + b"\n")
        return digest.digest()
