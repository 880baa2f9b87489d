"""
Publish a run: check the target, put together what is pushed, push it.

    for message in publish_run(run, Target("anna/support-bot"), token):
        ...

The run's directory is only read. What is pushed lies in a folder beside the runs while it is on its
way: merged weights can be larger than the place for temporary files.
Not covered: what an adapter's folder holds (bundle.py), merging (export/merged.py).
"""

import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from tuner.hub.push import Progress, Pushed, push_folder
from tuner.hub.target import Target, check_target
from tuner.runs.store import Run


def publish_run(
    run: Run, target: Target, token: str | None, card: str | None = None, merged: bool = False
) -> Generator[Progress | Pushed, None, None]:
    """Push a run's adapter, or its merged weights. Closing the iterator cancels.

    Args:
        card: README.md as it is to be; None writes it from the run.
        merged: 16-bit weights of base and adapter in one, which load without peft.

    Yields:
        Progress, its stage being checking, merging or one of push_folder's; Pushed at last.

    Raises:
        TunerError: A target or a run that does not suit, or why the push failed.
    """
    yield _progress("checking")
    # Before weights are merged, which takes minutes; the push itself looks again.
    check_target(target, token)
    with tempfile.TemporaryDirectory(prefix=".push-", dir=run.dir.parent) as aside:
        folder = Path(aside) / "files"
        if merged:
            yield from _merged(run, folder, target.repo, card, token)
        else:
            from tuner.hub.bundle import write_bundle

            folder.mkdir()
            write_bundle(run, folder, target.repo, card, token)
        what = "merged weights" if merged else "adapter"
        yield from push_folder(folder, target, token, f"Upload {what} of run {run.id}")


def _merged(
    run: Run, folder: Path, repo: str, card: str | None, token: str | None
) -> Generator[Progress, None, None]:
    from tuner.export.merged import merge_run
    from tuner.hub.bundle import write_card
    from tuner.hub.card import make_card

    for told in merge_run(run, folder):
        yield _progress("merging", told)
    text = make_card(run, repo, merged=True, token=token) if card is None else card
    write_card(run, folder, text)


def _progress(stage: str, told: Mapping[str, Any] | None = None) -> Progress:
    told = told or {}
    done, total = told.get("done_bytes", 0), told.get("total_bytes", 0)
    return Progress(kind="progress", stage=stage, done_bytes=done, total_bytes=total)
