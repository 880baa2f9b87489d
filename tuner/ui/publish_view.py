"""
What the Publish tab shows and accepts, as plain functions: the target's name, what the Hub says of
it, what is sent, how far it is, what came of it.

    place_problems("ann/support bot", "")            sentences, before anybody is asked
    progress_html(progress), pushed_html(pushed)     bytes while it goes, link and commit after

Not covered: the card (publish_card.py), asking the Hub (tuner/hub/target.py), sending
(tuner/hub/push.py).
"""

import re
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from tuner.errors import TunerError
from tuner.hub.identity import Person, Role
from tuner.hub.target import LONGEST_ID, Target, TargetFacts, branch_problems, name_problems
from tuner.runs.names import slug_of
from tuner.runs.run import Run
from tuner.ui.markup import element, notes
from tuner.ui.words import page_words

# Stages of a push (tuner/hub/push.py) as the page says them; others are words already.
STAGES = {
    "checking": "Checking the target",
    "hashing": "Reading the files",
    "uploading": "Uploading",
    "committing": "Committing",
    "verifying": "Reading it back and comparing",
}
SHOWN_SECONDS = 0.2  # between two looks at a progress

SOMEBODY = "your-name"  # in a suggestion, while nobody is known
UNITS = ((1e9, "GB", 2), (1e6, "MB", 1), (1e3, "KB", 0))


# Where it goes.


def suggested_repo(user: str | None, run_id: str) -> str:
    """A name for a run's repository.

    Args:
        user: Who publishes; None while nobody is known.

    >>> suggested_repo("ann", "20261123-0915-support-bot"), suggested_repo(None, "20261123-0915-é")
    ('ann/support-bot', 'your-name/e')
    """
    plain = unicodedata.normalize("NFKD", slug_of(run_id)).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9]+", "-", plain).strip("-") or "adapter"
    owner = user or SOMEBODY
    return f"{owner}/{name[: LONGEST_ID - len(owner) - 1].strip('-')}"


def place_problems(repo: str, revision: str) -> list[str]:
    """What is wrong with a repository's and a branch's name, without asking the Hub.

    >>> place_problems("ann/support-bot", "")
    []
    >>> place_problems("your-name/support-bot", "")
    ['Put your name on the Hub in place of your-name.']
    """
    if repo.startswith(f"{SOMEBODY}/"):
        return [f"Put your name on the Hub in place of {SOMEBODY}."]
    return [*name_problems(repo), *(branch_problems(revision) if revision else [])]


# As whom, and what the Hub says.


def whom_words(here: Person, *, in_space: bool, has_login: bool) -> tuple[str, bool]:
    """As whom it is published, and whether a token can be pasted instead."""
    if in_space:
        if here.token:
            return f"Published as {here.name}, who is signed in.", False
        return "Sign in at the top of the page to publish.", False
    if has_login and here.role is Role.OWNER:
        return "Published with this machine's own login, unless you paste another token.", True
    return "Published with the token that you paste here.", True


def facts_html(facts: TargetFacts, target: Target) -> str:
    """What is at the target now, and what publishing would do there."""
    if not facts.exists:
        kind = "private" if target.private else "public"
        told = f"✓ {facts.user} may write. A new {kind} repository will be made."
        return element("p", told, class_="tuner-ok")
    kind = "private" if facts.private else "public"
    if facts.needs_yes:
        told = (
            f"{target.repo} exists already and is {kind}. To replace files in it, type its name "
            "below. A push that changes nothing needs no name."
        )
        return notes([told], "warning")
    told = f"✓ {facts.user} may write. It exists and is {kind}."
    return element("p", told, class_="tuner-ok")


def problems_html(error: TunerError | OSError) -> str:
    """Why it did not go, a sentence each."""
    if isinstance(error, TunerError):
        return notes(map(page_words, error.problems), "problem")
    return notes([f"A file cannot be read or written: {error.strerror}."], "problem")


# What is sent, how far it is, what came of it.


def now_and_then(steps: Iterable[Any]) -> Iterator[Any]:
    """Steps as often as somebody can read them; each new stage and the last one always."""
    shown_at, stage, held = 0.0, None, None
    for step in steps:
        held, now = step, time.monotonic()
        if step.get("stage") != stage or now - shown_at >= SHOWN_SECONDS:
            shown_at, stage, held = now, step.get("stage"), None
            yield step
    if held is not None:
        yield held


def zip_link_html(run: Run) -> str:
    """The adapter, or the whole model of a full fine-tune, as the run's page offers it."""
    name = "adapter.zip" if run.adapter_dir.is_dir() else "model.zip"
    words = "Adapter (zip)" if run.adapter_dir.is_dir() else "Model (zip)"
    address = f"tuner/runs/{quote(run.id, safe='')}/files/{name}"
    return element("a", words, href=address, download=name)


def contents_html(files: Sequence[tuple[str, int | None]], note: str = "") -> str:
    """Files with their sizes, and all of them together.

    Args:
        files: Name and bytes; None for what is not written yet.
    """
    if not files:
        return ""
    rows = [
        element("tr", inner=element("td", name) + element("td", _size_or_later(size)))
        for name, size in files
    ]
    known = sum(size or 0 for _, size in files)
    total = element("th", _counted(len(files), "file")) + element("td", byte_count(known))
    table = element("table", inner="".join([*rows, element("tr", inner=total)]))
    return table + (element("p", note, class_="tuner-numbers") if note else "")


def progress_html(progress: Mapping[str, Any]) -> str:
    """What is being done, and how far in bytes where that is known."""
    stage = STAGES.get(progress["stage"], progress["stage"])
    done, total = progress["done_bytes"], progress["total_bytes"]
    if not total:
        return element("p", f"{stage} …", class_="tuner-busy", role="status")
    percent = f"{min(100.0, 100 * done / total):.1f}"
    told = element("p", f"{stage}: {byte_count(done)} of {byte_count(total)}", class_="tuner-busy")
    fill = element("div", class_="tuner-progress-fill", style=f"width: {percent}%")
    return told + element(
        "div",
        inner=fill,
        class_="tuner-progress",
        role="progressbar",
        aria_label=stage,
        aria_valuemin="0",
        aria_valuemax="100",
        aria_valuenow=str(round(float(percent))),
    )


def pushed_html(pushed: Mapping[str, Any], *, private: bool) -> str:
    """Where it is now, as read back from the Hub."""
    link = element(
        "a", pushed["url"], href=safe_link(pushed["url"]), target="_blank", rel="noopener"
    )
    if pushed["unchanged"]:
        done = "Nothing had changed: it is there already, file by file."
    else:
        what = f"{_counted(pushed['files'], 'file')}, {byte_count(pushed['bytes'])}"
        done = f"Published: {what}, read back and compared."
    seen = "Private: others cannot see it." if private else "Public: everybody can see it."
    return (
        element("p", "✓ " + done, class_="tuner-done", role="status")
        + element("p", inner=link)
        + element("p", f"Commit {pushed['commit'][:12]}. {seen}", class_="tuner-numbers")
    )


def safe_link(url: str) -> str:
    """An address for a link: only http and https; a server could answer with a script."""
    return url if url.startswith(("https://", "http://")) else "#"


def byte_count(count: float) -> str:
    """Bytes in the largest unit that leaves a number before the point.

    >>> byte_count(812), byte_count(48_300), byte_count(1_234_567), byte_count(15_800_000_000)
    ('812 bytes', '48 KB', '1.2 MB', '15.80 GB')
    """
    for size, unit, digits in UNITS:
        if count >= size:
            return f"{count / size:,.{digits}f} {unit}"
    return f"{count:,.0f} bytes"


def _size_or_later(size: int | None) -> str:
    return "made when sent" if size is None else byte_count(size)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
