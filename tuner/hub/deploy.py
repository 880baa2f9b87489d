"""
Make a Space of this app, or bring one up to date.

    plan = SpacePlan("anna/tuner", hardware="t4-small")
    check_space(plan, token).cost         what it will cost, in sentences; nothing is made yet
    for message in deploy_space(plan, token):
        ...

Its files go by push.py, as every push does. All of it is read back at the end; what could not be
set in a Space that exists is told as such.
Not covered: watching it build; the Hub's page does that better.
"""

import shutil
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypedDict

from tuner.errors import HubError
from tuner.hub.api import WAITS, hub_api
from tuner.hub.push import PROJECT_ROOT, Progress, Pushed, push_folder
from tuner.hub.space_files import space_files, space_readme
from tuner.hub.space_plan import SpacePlan, plan_problems
from tuner.hub.space_prices import Price, cost_sentences, price_of
from tuner.hub.space_settings import SpaceSettings
from tuner.hub.target import (
    TargetFacts,
    check_target,
    require_form,
    require_token,
    url_of,
)

# Modules that are gone from the project must not stay in the Space and be imported.
REPLACED = ("tuner/", "presets/", "docs/")


@dataclass(frozen=True)
class SpaceFacts:
    """What is known before anything is made.

    Attributes:
        cost: Sentences for whoever pays.
        files, bytes: Of what will be uploaded.
    """

    target: TargetFacts
    price: Price
    cost: list[str]
    files: int
    bytes: int


class Deployed(TypedDict):
    """A Space that is there, with all that was asked for; its files' hashes were read back."""

    kind: Literal["deployed"]
    url: str
    commit: str
    files: int
    bytes: int
    unchanged: bool
    created: bool


def check_space(
    plan: SpacePlan, token: str | None, *, root: Path = PROJECT_ROOT, waits: Sequence[float] = WAITS
) -> SpaceFacts:
    """Ask the Hub whether a Space can be made so, and what it costs.

    Args:
        root: The project's folder.
        waits: See `api.patiently`.

    Raises:
        HubError: Every problem that was found.
    """
    require_form(plan.target)
    if problems := list(plan_problems(plan)):
        raise HubError(problems)
    api = hub_api(require_token(plan.target, token))
    facts = check_target(plan.target, token, waits=waits)
    if facts.needs_yes:
        raise HubError(
            f"The Space {plan.repo} exists and holds files. To replace them, confirm with its "
            f"name, {plan.repo}, or choose another name."
        )
    price = price_of(plan.hardware, api)
    files = space_files(root)
    return SpaceFacts(
        target=facts,
        price=price,
        cost=cost_sentences(price, plan.sleep_minutes),
        files=len(files),
        bytes=sum(path.stat().st_size for path in files.values()),
    )


def deploy_space(
    plan: SpacePlan, token: str | None, *, root: Path = PROJECT_ROOT, waits: Sequence[float] = WAITS
) -> Generator[Progress | Deployed, None, None]:
    """Make the Space, or bring it up to date. Closing the iterator ends it where it is.

    Args:
        root: The project's folder.
        waits: See `api.patiently`.

    Yields:
        Progress, its stage being checking, creating, configuring or one of push_folder's; Deployed
        at last.

    Raises:
        HubError: Why it was not done, and what exists by then.
    """
    yield _progress("checking")
    facts = check_space(plan, token, root=root, waits=waits)
    settings, created = SpaceSettings(plan, hub_api(token), waits), not facts.target.exists
    if created:
        yield _progress("creating")
        settings.create()
    with _told_to_exist(plan):
        if not created:
            yield _progress("configuring")
            settings.configure()
        pushed = yield from _push(plan, token, root, waits)
        yield _progress("verifying")
        if not created:
            settings.power()
        settings.require_as_planned()
    yield _deployed(pushed, created)


def _push(
    plan: SpacePlan, token: str | None, root: Path, waits: Sequence[float]
) -> Generator[Progress, None, Pushed]:
    # Whoever made it a moment ago, or gave its name, has said yes to the Hub's own README.md.
    target = replace(plan.target, overwrite=plan.repo)
    with tempfile.TemporaryDirectory(prefix="tuner-space-") as aside:
        write_space(Path(aside), plan, root)
        messages = push_folder(
            Path(aside), target, token, "Deploy Tuner", replaces=REPLACED, waits=waits
        )
        with closing(messages):
            for message in messages:
                if message["kind"] == "pushed":
                    return message
                yield message
    raise AssertionError("a push ends with `pushed` or an error")


def write_space(folder: Path, plan: SpacePlan, root: Path = PROJECT_ROOT) -> None:
    """Put into a folder what the Space gets."""
    for name, source in space_files(root).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
    readme = (root / "README.md").read_text(encoding="utf-8")
    text = space_readme(readme, plan.repo, plan.hardware)
    (folder / "README.md").write_text(text, encoding="utf-8")


@contextmanager
def _told_to_exist(plan: SpacePlan) -> Iterator[None]:
    """Begin every problem with what exists by then, and costs."""
    try:
        yield
    except HubError as error:
        beginning = f"The Space {url_of(plan.target)} exists, but"
        problems = [f"{beginning} {_lowered(problem)}" for problem in error.problems]
        raise HubError(problems) from None


def _lowered(problem: str) -> str:
    """A sentence as it goes on after "but"; names stay as they are."""
    begins = problem.startswith(("Could ", "The "))
    return problem[0].lower() + problem[1:] if begins else problem


def _deployed(pushed: Pushed, created: bool) -> Deployed:
    return Deployed(
        kind="deployed",
        url=pushed["url"],
        commit=pushed["commit"],
        files=pushed["files"],
        bytes=pushed["bytes"],
        unchanged=pushed["unchanged"],
        created=created,
    )


def _progress(stage: str) -> Progress:
    return Progress(kind="progress", stage=stage, done_bytes=0, total_bytes=0)
