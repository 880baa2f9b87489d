"""
Upload one folder, in its own process; push.py starts it and reads what it says.

    python -m tuner.hub.upload < request.json

The first line of stdin is the request, the environment's HF_TOKEN is the token, and stdout has one
JSON object a line: progress, then `pushed` or `error`. It ends when stdin does.

What is decided about the repo is decided here, from what the Hub says now: made if it is missing,
private before the first byte, compared file by file, committed onto the state that was compared,
and read back. A commit whose answer was lost is found by comparing again, not made twice.
"""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from tuner.errors import HubError, TunerError
from tuner.hub.api import hub_api, hub_sentences, patiently
from tuner.hub.metering import Meter, watch_requests
from tuner.hub.push import Pushed
from tuner.hub.target import (
    MAIN,
    OF_THE_HUB,
    Target,
    facts_of,
    held_files,
    info_of,
    state_of,
    state_problems,
    url_of,
)

PIECE = 1 << 20
TRIED_BY_CLIENT = ("/preupload/", "/info/lfs/")  # five times, before it gives up
SHOWN = 5  # names of files in a sentence


@dataclass(frozen=True)
class LocalFile:
    """One file to push, with both hashes by which the Hub may know it."""

    path: Path
    size: int
    sha256: str
    blob_id: str


class Upload:
    """One push.

    Args:
        request: See push.push_folder, which makes it.
    """

    def __init__(self, request: Mapping[str, Any], token: str, meter: Meter):
        self.folder = Path(request["folder"])
        self.target = Target(**request["target"])
        self.message: str = request["message"]
        self.replaces: Sequence[str] = request["replaces"]
        self.waits: Sequence[float] = request["waits"]
        self.meter = meter
        self.api = hub_api(token, request["answer_seconds"])
        watch_requests(meter, request["answer_seconds"])

    def run(self) -> Pushed:
        """Do all of it.

        Raises:
            HubError: Why it could not be done.
        """
        self.meter.begin("checking")
        facts = facts_of(self.api, self.target, self.waits)
        files = self._local_files()
        if not facts.exists:
            self._create()
        self.meter.begin("checking")
        before, held = self._prepare_branch()
        changed, surplus = self._difference(files, before)
        if not changed and not surplus:
            return self._pushed(files, before, unchanged=True)
        if held and self.target.overwrite != self.target.repo:
            raise HubError(needs_yes_sentence(self.target.repo, held))
        commit = self._commit(files, before)
        self.meter.begin("verifying")
        self._verify(files, commit)
        return self._pushed(files, commit, unchanged=False)

    def _local_files(self) -> dict[str, LocalFile]:
        paths = sorted(path for path in self.folder.rglob("*") if not path.is_dir())
        if links := [path.name for path in paths if path.is_symlink()]:
            raise HubError(f"{links[0]} is a link, which may lead anywhere. Push files.")
        self.meter.begin("hashing", sum(path.stat().st_size for path in paths))
        found = {}
        for path in paths:
            name = path.relative_to(self.folder).as_posix()
            found[name] = hashed(path, partial(self.meter.moved, name))
        return found

    def _create(self) -> None:
        from huggingface_hub.errors import HfHubHTTPError

        repo, private, kind = self.target.repo, self.target.private, self.target.kind
        sdk = "gradio" if kind == "space" else None

        def create() -> None:
            try:
                self.api.create_repo(repo, private=private, repo_type=kind, space_sdk=sdk)
            except HfHubHTTPError as error:
                if error.response.status_code != 409:
                    raise  # 409: an answer was lost, or somebody was faster; what is there decides

        with hub_sentences("create", repo):
            patiently(create, self.waits)

    def _prepare_branch(self) -> tuple[str, list[str]]:
        """The branch's commit, and what somebody put there. It is made where it is missing."""
        found = state_of(self.api, self.target, self.waits)
        if found is None:
            raise HubError(
                f"{self.target.repo} was to be made, and the Hub does not show it. Try again."
            )
        if problems := list(state_problems(self.target, found)):
            raise HubError(problems)
        held = held_files(found)
        if self.target.branch == MAIN:
            return str(found.sha), held
        with hub_sentences(f"make the branch {self.target.branch} of", self.target.repo):
            patiently(self._create_branch, self.waits)
        return self._head(), held

    def _create_branch(self) -> None:
        repo, branch, kind = self.target.repo, self.target.branch, self.target.kind
        self.api.create_branch(repo, branch=branch, repo_type=kind, exist_ok=True)

    def _head(self) -> str:
        with hub_sentences("look at", self.target.repo):
            return str(self._info(self.target.branch).sha)

    def _info(self, revision: str) -> Any:
        return patiently(lambda: info_of(self.api, self.target, revision), self.waits)

    def _difference(
        self, files: Mapping[str, LocalFile], commit: str
    ) -> tuple[list[str], list[str]]:
        """Names that a commit lacks or has otherwise, and names that are to go."""
        there = self._hashes(commit)
        changed = [
            name
            for name, file in files.items()
            if there.get(name) not in (file.sha256, file.blob_id)
        ]
        surplus = [name for name in there if name not in files and self._is_replaced(name)]
        return changed, surplus

    def _hashes(self, commit: str) -> dict[str, str]:
        """Name → hash of every file in a commit: sha256 of those in LFS, git's own of others."""

        def ask() -> dict[str, str]:
            from huggingface_hub.hf_api import RepoFile

            repo, kind = self.target.repo, self.target.kind
            tree = self.api.list_repo_tree(repo, recursive=True, revision=commit, repo_type=kind)
            files = [entry for entry in tree if isinstance(entry, RepoFile)]
            return {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in files}

        with hub_sentences("look at", self.target.repo):
            return patiently(ask, self.waits)

    def _is_replaced(self, name: str) -> bool:
        if name in OF_THE_HUB:
            return False
        return any(
            name.startswith(pattern)
            if pattern.endswith("/")
            else "/" not in name and fnmatchcase(name, pattern)
            for pattern in self.replaces
        )

    def _commit(self, files: Mapping[str, LocalFile], before: str) -> str:
        """Upload and commit; the new commit's id."""

        def attempt() -> str:
            head = self._head()
            changed, surplus = self._difference(files, head)
            if not changed and not surplus:
                return head  # an earlier attempt arrived; only its answer did not
            if head != before:
                raise HubError(
                    f"{self.target.repo} was changed by somebody else meanwhile, and nothing was "
                    "overwritten. Look at it, and push again."
                )
            return self._commit_once(files, changed, surplus, head)

        with hub_sentences("push to", self.target.repo):
            return patiently(attempt, self.waits, but_not=TRIED_BY_CLIENT)

    def _commit_once(
        self,
        files: Mapping[str, LocalFile],
        changed: Sequence[str],
        surplus: Sequence[str],
        head: str,
    ) -> str:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        self.meter.begin("uploading", sum(files[name].size for name in changed))
        added = [CommitOperationAdd(name, str(files[name].path)) for name in changed]
        for name, addition in zip(changed, added, strict=True):
            addition.upload_info.sha256 = bytes.fromhex(files[name].sha256)  # known: not read again
        removed = [CommitOperationDelete(name, is_folder=False) for name in surplus]
        done = self.api.create_commit(
            self.target.repo,
            [*added, *removed],
            commit_message=self.message,
            repo_type=self.target.kind,
            revision=self.target.branch,
            parent_commit=head,
        )
        return str(done.oid)

    def _verify(self, files: Mapping[str, LocalFile], commit: str) -> None:
        """Read back what the Hub says it has; nothing is done before."""
        repo = self.target.repo
        with hub_sentences("read back", repo):
            info = self._info(commit)
        changed, surplus = self._difference(files, commit)
        if info.sha != commit or changed or surplus:
            what = _some([*changed, *surplus]) if changed or surplus else "its commit"
            raise HubError(
                f"The push to {repo} is not complete: the Hub shows other content ({what}). "
                "Push again."
            )
        if self.target.private and not info.private:
            raise HubError(f"{repo} has become public meanwhile. Look at its settings on the Hub.")

    def _pushed(self, files: Mapping[str, LocalFile], commit: str, unchanged: bool) -> Pushed:
        return Pushed(
            kind="pushed",
            url=url_of(self.target),
            commit=commit,
            files=len(files),
            bytes=sum(file.size for file in files.values()),
            unchanged=unchanged,
        )


def hashed(path: Path, moved: Callable[[int], None]) -> LocalFile:
    """Read a file once for both hashes."""
    size = path.stat().st_size
    sha256 = hashlib.sha256()
    blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    done = 0
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            sha256.update(piece)
            blob.update(piece)
            done += len(piece)
            moved(done)
    return LocalFile(path, size, sha256.hexdigest(), blob.hexdigest())


def needs_yes_sentence(repo: str, held: Sequence[str]) -> str:
    """What to do about a repo that holds something else."""
    return (
        f"{repo} exists and holds other files ({_some(held)}). To overwrite it, confirm with its "
        f"name, {repo}, or choose another name."
    )


def _some(names: Sequence[str]) -> str:
    """
    >>> _some(["a", "b", "c", "d", "e", "f", "g"])
    'a, b, c, d, e and 2 more'
    """
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def end_with_stdin() -> None:
    """End when whoever started this process is gone."""

    def wait() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main() -> int:
    """Read a request, upload, and tell.

    Returns:
        The exit code: 0 pushed, 1 not.
    """
    # Libraries print: what they say must not come between the messages.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def tell(message: Mapping[str, Any]) -> None:
        with lock:
            answers.write(json.dumps(message) + "\n")
            answers.flush()

    request = json.loads(sys.stdin.buffer.readline())
    end_with_stdin()
    meter = Meter(tell)
    meter.begin("checking")  # said before the client is imported, which takes a while
    try:
        tell(Upload(request, os.environ["HF_TOKEN"], meter).run())
    except TunerError as error:
        tell({"kind": "error", "problems": error.problems})
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
