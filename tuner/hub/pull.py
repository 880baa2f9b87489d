"""
Bring a run back that `push_every_save` copied to the Hub, so that it can be resumed here.

    pulled = pull_run(store, "anna/support-bot", token, progress=print)

The run appears whole or not at all: it is downloaded aside, every file is compared with the hash
that the Hub lists, and it is renamed at last. Whoever can write to the repo may have put anything
there, so only files that a copy has are taken (run_copy.py), each of its kind's size, and the state
is written anew: no process, no owner, no reason of another machine.
Not covered: what is in the optimizer's state; training reads it with `weights_only`.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from tuner.base_models.download import fetch_files
from tuner.data.data_report import load_report
from tuner.errors import HubError, RunError, TunerError
from tuner.hub.api import hub_api, hub_sentences, patiently
from tuner.hub.run_copy import FOLDER, MANIFEST, Manifest, is_part, read_manifest
from tuner.hub.target import Target, check_target, name_problems
from tuner.recipe import Recipe
from tuner.runs import names
from tuner.runs.run import Run
from tuner.runs.status import Status, new_status, read_status, write_status
from tuner.runs.store import MIN_FREE_BYTES, RunStore

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

MOST_FILES = 1000
SMALL_BYTES = 10_000_000  # of what is read into memory at once
LARGE = re.compile(r".*\.(safetensors|jsonl|pt|pth)|.*/tokenizer\.json")
NEEDED = (
    *("recipe.yaml", "status.json", "events.jsonl"),
    *("data/train.jsonl", "data/eval.jsonl", "data/report.json"),
)
NEEDED_TO_RESUME = ("trainer_state.json", "token_count.json", "optimizer.pt", "scheduler.pt")
KEPT_STATES = ("completed", "stopped")

Progress = Callable[[int, int], None]


class Pulled(TypedDict):
    """A run that is here again.

    Attributes:
        run, dir: Its id and folder, which may have a number that it had not.
        commit: That it was taken from.
        state: completed, stopped or interrupted.
        step: At which a resume begins; that of the kept weights for one that completed.
        bytes: That were downloaded.
        pushes: Whether it will go on being copied to the repo when it is resumed.
    """

    run: str
    dir: str
    repo: str
    commit: str
    state: str
    step: int
    bytes: int
    pushes: bool


def pull_run(
    store: RunStore,
    repo: str,
    token: str | None,
    *,
    revision: str | None = None,
    name: str | None = None,
    owner: str | None = None,
    refused: Callable[[Recipe], list[str]] = lambda _: [],
    progress: Progress = lambda done, total: None,
) -> Pulled:
    """Download a run from the Hub into the store.

    Args:
        token: Of who asks; None for public repos.
        revision: A branch or commit: an earlier copy. None is the newest.
        name: What the run is to be called here; else it keeps its id.
        owner: Who asks, where people sign in.
        refused: What is not allowed here in a recipe, a sentence each. It is asked about the run's
            without its source: the rows came with it, and nothing else is read.
        progress: Called with the bytes that are here and those of all. What it raises ends it.

    Raises:
        HubError: The repo cannot be read, or not all of it arrived.
        RunError: It holds no run that can be taken; a name that cannot be used; no room.
    """
    if problems := list(name_problems(repo)):
        raise RunError(problems)
    last_part = names.slug(name) if name is not None else None
    api = hub_api(token)
    commit, files = _listed(api, repo, revision)
    _require_run(repo, files)
    store.root.mkdir(parents=True, exist_ok=True)
    _require_room(store.root, repo, sum(file.size for file in files.values()))
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=store.root) as aside:
        _fetch(api, repo, commit, files, Path(aside), progress)
        _verify(repo, files, Path(aside))
        run = Run(Path(aside) / FOLDER)
        manifest = read_manifest(run.dir / MANIFEST, repo)
        _require_data(run, repo)
        pushes = _settle_recipe(run, repo, token, refused)
        status = _settle_status(run, manifest, repo, owner)
        (run.dir / MANIFEST).unlink()
        (run.dir / "README.md").unlink(missing_ok=True)
        run_id = names.run_id(manifest.created, last_part) if last_part else manifest.run
        found = store.admit(run.dir, run_id)
    return Pulled(
        run=found.id,
        dir=str(found.dir),
        repo=repo,
        commit=commit,
        state=status["state"],
        step=status["step"],
        bytes=sum(file.size for file in files.values()),
        pushes=pushes,
    )


def _listed(api: "HfApi", repo: str, revision: str | None) -> "tuple[str, dict[str, RepoFile]]":
    """The commit, and what is in its run/ by path."""
    from huggingface_hub.hf_api import RepoFile

    with hub_sentences("look at", repo):
        info = patiently(lambda: api.model_info(repo, revision=revision))
        commit = str(info.sha)
        tree = patiently(lambda: list(api.list_repo_tree(repo, recursive=True, revision=commit)))
    files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    inside = {path: file for path, file in files.items() if path.startswith(f"{FOLDER}/")}
    if not inside and "adapter_config.json" in files:
        raise RunError(
            f"{repo} holds an adapter alone, and no run that could be resumed. To talk to it: "
            f"`python -m tuner chat {repo}`."
        )
    return commit, inside


def _require_run(repo: str, files: "Mapping[str, RepoFile]") -> None:
    """Refuse what no copy has, before a byte of it is downloaded."""
    inside = {path.removeprefix(f"{FOLDER}/"): file for path, file in files.items()}
    if MANIFEST not in inside:
        raise RunError(
            f"{repo} holds no run. Only repos that push_every_save has pushed to can be pulled."
        )
    problems = list(_file_problems(repo, inside))
    missing = [name for name in NEEDED if name not in inside]
    if missing and not problems:
        problems = [f"The run in {repo} is not complete: {', '.join(missing)} is missing."]
    if problems:
        raise RunError(problems)


def _file_problems(repo: str, files: "Mapping[str, RepoFile]") -> Iterator[str]:
    if len(files) > MOST_FILES:
        yield f"The run in {repo} has {len(files):,} files, more than any run. Look at its page."
        return
    if odd := [name for name in files if not is_part(name)]:
        yield (
            f"The run in {repo} holds {odd[0][:120]!r}, which is no file of a run, so nothing of "
            "it is taken. Remove it there, if you trust the rest."
        )
    for name, file in files.items():
        if file.size > SMALL_BYTES and not LARGE.fullmatch(name):
            yield f"{name} of the run in {repo} has {file.size:,} bytes, too many for such a file."


def _require_room(root: Path, repo: str, size: int) -> None:
    free = shutil.disk_usage(root).free
    if free < size + MIN_FREE_BYTES:
        raise RunError(
            f"The run in {repo} has {size / 1e6:,.0f} MB, and the disk of {root} has "
            f"{free / 1e6:,.0f} MB free. Make room, or choose another folder with --runs-dir."
        )


def _fetch(
    api: "HfApi",
    repo: str,
    commit: str,
    files: "Mapping[str, RepoFile]",
    aside: Path,
    progress: Progress,
) -> None:
    from huggingface_hub import hf_hub_download

    def fetch(path: str, meter: Any) -> str:
        return hf_hub_download(
            repo, path, revision=commit, local_dir=aside, token=api.token, tqdm_class=meter
        )

    with hub_sentences("download", repo):
        fetch_files({path: file.size for path, file in files.items()}, fetch, progress)


def _verify(repo: str, files: "Mapping[str, RepoFile]", aside: Path) -> None:
    from tuner.hub.upload import hashed

    for path, file in files.items():
        here = hashed(aside / path, lambda _: None)
        whole = here.sha256 == file.lfs.sha256 if file.lfs else here.blob_id == file.blob_id
        if not whole or (aside / path).is_symlink():
            raise HubError(f"{path} of {repo} did not arrive as the Hub has it. Pull again.")


def _require_data(run: Run, repo: str) -> None:
    """Refuse rows without their report: a resume would read the recipe's source on this machine."""
    try:
        report: Any = load_report(run.data_dir)
        sound = isinstance(report["fingerprint"], str) and isinstance(report["rows"], int)
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise RunError(f"data/report.json of the run in {repo} is damaged. Pull an earlier one.")


def _settle_recipe(
    run: Run, repo: str, token: str | None, refused: Callable[[Recipe], list[str]]
) -> bool:
    """Let copies go to where the run came from, if this person may; never to a third place."""
    try:
        recipe = run.recipe()
    except TunerError as error:
        raise RunError(
            [f"The recipe of the run in {repo}: {problem}" for problem in error.problems]
        ) from None
    without = {"source": "", "kind": "auto"}
    data = recipe.dataset.model_copy(update=without)
    if problems := refused(recipe.model_copy(update={"dataset": data})):
        raise RunError(problems)
    pushes = recipe.push_every_save and _may_push(repo, token)
    run.save_recipe(recipe.model_copy(update={"push_every_save": pushes, "hub_model_id": repo}))
    return pushes


def _may_push(repo: str, token: str | None) -> bool:
    try:
        check_target(Target(repo, private=True), token)
    except HubError:
        return False
    return True


def _settle_status(run: Run, manifest: Manifest, repo: str, owner: str | None) -> Status:
    """The status as it is true here, and of a run that can be gone on with."""
    try:
        told = read_status(run.status_path)
    except RunError:
        raise RunError(f"status.json of the run in {repo} is damaged. Pull another one.") from None
    kept = run.adapter_dir.is_dir() or run.model_dir.is_dir()
    checkpoint = run.last_checkpoint()
    if checkpoint:
        _require_checkpoint(repo, *checkpoint)
    elif not kept:
        raise RunError(f"The run in {repo} has neither a checkpoint nor an adapter. Train anew.")
    state = told["state"] if told["state"] in KEPT_STATES and kept else "interrupted"
    step = checkpoint[0] if checkpoint else max(0, int(told["step"]))
    going_on = "" if state == "completed" else f", at step {step:,}; a resume continues there"
    status = Status(
        state=state,
        reason=f"Pulled from {repo}{going_on}.",
        created=manifest.created,
        step=step,
        max_steps=told["max_steps"],
    )
    status = {**new_status(owner), **status}
    write_status(run.status_path, status)
    return status


def _require_checkpoint(repo: str, step: int, folder: Path) -> None:
    """Refuse a checkpoint that a resume would stumble over."""
    missing = [name for name in NEEDED_TO_RESUME if not (folder / name).is_file()]
    missing += [] if any(folder.glob("*.safetensors")) else ["its weights"]
    if missing:
        raise RunError(
            f"The checkpoint of step {step:,} in {repo} is not complete: {', '.join(missing)} is "
            "missing. Pull an earlier --revision."
        )
    try:
        state = json.loads((folder / "trainer_state.json").read_bytes())
        found = state["global_step"]
    except (ValueError, TypeError, KeyError, RecursionError):
        found = None
    if found != step:
        raise RunError(
            f"The checkpoint of step {step:,} in {repo} is of another step. Pull an earlier "
            "--revision."
        )
