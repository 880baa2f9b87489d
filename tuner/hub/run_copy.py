"""
What of a run is copied to the Hub so that it can be resumed from there, and where it stands there.

    step = copy_run(run, folder)        folder/run/recipe.yaml, folder/run/checkpoints/step-40/ …

Settings, prepared rows, events, the newest checkpoint and the best one, what was kept, the result.
The same table says what a pull takes: nothing else is written to a disk here. Weights are
safetensors; the optimizer's state is torch's own format, which is only ever read with
`weights_only` (https://docs.pytorch.org/docs/stable/generated/torch.load.html), so it runs no code.
Not copied: train.log, and caches that are made anew. Not covered: pushing (saves.py), pulling
(pull.py).
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.errors import HubError, RunError
from tuner.runs.names import RUN_ID
from tuner.runs.run import Run
from tuner.runs.status import read_status

FOLDER = "run"
MANIFEST, NOTE = "run.json", "README.md"
FORMAT = 1
TRIES = 5
LONGEST_ID = 200  # bytes
LATEST_CREATED = 1e11  # Unix seconds; later ones have no date

GROWING = ("events.jsonl", "votes.jsonl")  # only ever appended to
_FILES = r"recipe\.yaml|status\.json|result\.json|events\.jsonl|votes\.jsonl"
_DATA = r"data/(?:train\.jsonl|eval\.jsonl|report\.json)"
_STATE = r"trainer_state\.json|token_count\.json|(?:optimizer|scheduler|scaler)\.pt|rng_state\.pth"
_WEIGHTS = (
    r"(?:adapter_config|config|generation_config)\.json|[\w-]+\.safetensors(?:\.index\.json)?"
)
_CHECKPOINT = rf"checkpoints/step-\d{{1,9}}/(?:[\w-]+/)?(?:{_STATE}|{_WEIGHTS})"
_KEPT = r"(?:adapter|model)/(?:[\w-]+\.)+(?:safetensors|json|jinja|txt|model)"
PART = re.compile(f"{_FILES}|{_DATA}|{_CHECKPOINT}|{_KEPT}", re.ASCII)

NOTE_TEXT = """\
# A run of Tuner

Everything that resumes this run on another machine:

    python -m tuner pull {repo}
    python -m tuner resume {name}

`data/` holds the rows it trains on. Remove this folder before you make the repo public.
"""


@dataclass(frozen=True)
class Manifest:
    """Which run a copy is of.

    Attributes:
        run: Its id where it was copied.
        created: Unix seconds; with a copy that was pulled back, it stays what it was, and so says
            whether two copies are of one run.
    """

    run: str
    created: float


def copy_run(run: Run, folder: Path, repo: str) -> int | None:
    """Put a run, as it stands at its newest checkpoint, into folder/run.

    What is complete on the disk never changes, so it is linked, not copied, where that can be.

    Args:
        folder: It need not exist.
        repo: Where it will go, for the note beside it.

    Returns:
        The step of the newest checkpoint; None where there is none.

    Raises:
        RunError: The run is gone, or was changed each time while it was copied.
        OSError: The disk is full.
    """
    for _ in range(TRIES):
        before = _stamp(run)
        try:
            shutil.rmtree(folder / FOLDER, ignore_errors=True)
            _copy(run, folder / FOLDER, repo)
        except FileNotFoundError:  # an older checkpoint made room meanwhile
            continue
        if _stamp(run) == before:
            last = run.last_checkpoint()
            return last[0] if last else None
    raise RunError(f"Run {run.id} cannot be copied: it is gone, or it changes all the time.")


def is_part(name: str) -> bool:
    """Whether a path inside run/ is one that a copy has.

    >>> is_part("checkpoints/step-40/optimizer.pt"), is_part("checkpoints/step-40/weights.bin")
    (True, False)
    >>> is_part("data/../../x.jsonl")
    False
    """
    return name in (MANIFEST, NOTE) or PART.fullmatch(name) is not None


def read_manifest(path: Path, repo: str) -> Manifest:
    """Which run a copy is of.

    Raises:
        HubError: Something else is in the file.
    """
    try:
        values: Any = json.loads(path.read_bytes())
        if values.get("format") != FORMAT:
            raise HubError(f"The run in {repo} was pushed by another version. Update Tuner.")
        run, created = values["run"], values["created"]
        sound = RUN_ID.fullmatch(run) and len(run.encode()) <= LONGEST_ID
        if sound and 0 < created < LATEST_CREATED:
            return Manifest(run, float(created))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise HubError(f"{FOLDER}/{MANIFEST} of {repo} does not name a run. Push the run again.")


def _copy(run: Run, into: Path, repo: str) -> None:
    into.mkdir(parents=True)
    for path in _wanted(run):
        name = path.relative_to(run.dir).as_posix()
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in GROWING:
            _copy_lines(path, target)
        else:
            _link(path, target)
    manifest = {"format": FORMAT, "run": run.id, "created": read_status(run.status_path)["created"]}
    (into / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    note = NOTE_TEXT.format(repo=repo, name=run.id)
    (into / NOTE).write_text(note, encoding="utf-8")


def _wanted(run: Run) -> Iterator[Path]:
    """The files of a copy: of checkpoints, those of the newest and of the best."""
    steps = {path.name for path in _checkpoints(run)}
    for path in sorted(run.dir.rglob("*")):
        name = path.relative_to(run.dir).as_posix()
        if not PART.fullmatch(name) or path.is_symlink() or not path.is_file():
            continue
        if not name.startswith("checkpoints/") or name.split("/")[1] in steps:
            yield path


def _checkpoints(run: Run) -> list[Path]:
    """The newest, where a resume begins, and the best so far, which may be what is kept at last."""
    if not (last := run.last_checkpoint()):
        return []
    state = json.loads((last[1] / "trainer_state.json").read_bytes())
    best = run.checkpoints_dir / f"step-{state.get('best_global_step')}"
    return [last[1], *([best] if best != last[1] and best.is_dir() else [])]


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except FileNotFoundError:
        raise
    except OSError:  # a disk without links
        shutil.copyfile(path, target)


def _copy_lines(path: Path, target: Path) -> None:
    """As far as its last whole line: it grows, and what is pushed must not."""
    content = path.read_bytes()
    target.write_bytes(content[: content.rfind(b"\n") + 1])


def _stamp(run: Run) -> tuple[Any, ...]:
    """What changes when something that is copied is removed or takes another's place."""
    last = run.last_checkpoint()
    return (last, *(_inode(folder) for folder in (run.dir, run.adapter_dir, run.model_dir)))


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
