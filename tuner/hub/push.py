"""
Push a folder to the Hub, from a child process that can be killed.

    for message in push_folder(folder, Target("anna/support-bot"), token):
        ...

The child (upload.py) does all that asks the Hub. Here it is started, followed, and ended: when it
has shown no sign of life for too long, when the iterator is closed (a cancel), and with whoever
reads it. The folder is only read, and nothing is committed before everything is there; what had
arrived before a push ended is not sent twice.

Files go by Git LFS, which the Hub takes for every repo and moves to Xet by itself
(https://huggingface.co/docs/hub/xet/legacy-git-lfs): its bytes can be counted, its failures told
apart, and its retries are bounded, while hf_xet tries a failing storage for minutes and says no
more than "connection". For adapters of some megabytes nothing is lost. Who pushes large merged
models again and again and wants Xet's deduplication sets HF_HUB_DISABLE_XET=0; progress then has
stages, but no bytes.
Not covered: what belongs into the folder; see bundle.py and publish.py.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypedDict

import tuner
from tuner.errors import HubError
from tuner.hub.api import WAITS, xet_is_wanted
from tuner.hub.target import Target, require_form, require_token

PROJECT_ROOT = Path(tuner.__file__).resolve().parents[1]
SILENCE_SECONDS = 120.0  # more than the longest wait that the Hub may ask for (api.LONGEST_WAIT)
TELL_SECONDS = 1.0  # whoever follows a push is told at least so often, and can cancel it then
KEPT_PIECES = 20  # of the child's stderr

# What decides how a repo is loaded. Beside new weights, older files of these names would be loaded
# with them or in their place, so a push that may overwrite removes them. Everything else that
# somebody put into the repo stays. A name that ends with / is a folder, others are at the root.
REPLACED = (
    *("*.safetensors", "*.bin", "*.pt", "*.pth", "*.index.json"),
    *("adapter_config.json", "config.json", "generation_config.json", "chat_template.jinja"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("Modelfile", "recipe.yaml", "result.json", "loss.png"),  # of what was there before
)


class Progress(TypedDict):
    """How far a push is.

    Attributes:
        stage: checking, hashing, uploading, committing or verifying; publish.py has some before.
        done_bytes, total_bytes: Of what is uploaded; both 0 in other stages.
    """

    kind: Literal["progress"]
    stage: str
    done_bytes: int
    total_bytes: int


class Pushed(TypedDict):
    """A push that is done: its commit and the hashes of all files were read back.

    Attributes:
        url: The page of the repo, or of its branch.
        commit: Id of the commit that holds the files.
        files, bytes: All that the folder holds, whether it was sent or there already.
        unchanged: The repo held exactly this before, so there is no new commit.
    """

    kind: Literal["pushed"]
    url: str
    commit: str
    files: int
    bytes: int
    unchanged: bool


def push_folder(
    folder: Path,
    target: Target,
    token: str | None,
    message: str = "Upload from Tuner",
    *,
    replaces: Sequence[str] = REPLACED,
    silence_seconds: float = SILENCE_SECONDS,
    waits: Sequence[float] = WAITS,
) -> Generator[Progress | Pushed, None, None]:
    """Make a branch of a repo hold what a folder holds. Closing the iterator cancels.

    Args:
        folder: All its files are pushed.
        token: Of who pushes.
        message: The commit's.
        replaces: Names that a push with a yes to overwriting removes; see REPLACED.
        silence_seconds: The push is ended when the Hub shows no sign of life for so long.
        waits: Seconds before each new try of a request; see `patiently`.

    Yields:
        Progress, at least once a second, and Pushed at last.

    Raises:
        HubError: Every problem of the target, or why it failed.
    """
    require_form(target)
    token = require_token(target, token)
    if not any(path.is_file() for path in folder.rglob("*")):
        raise HubError(f"Nothing to push to {target.repo}: the folder {folder.name} holds no file.")
    request = {
        "folder": str(folder.resolve()),
        "target": asdict(target),
        "message": message,
        "replaces": list(replaces),
        "waits": list(waits),
        "answer_seconds": silence_seconds + 10,  # whoever waits here gives up first
    }
    child = _Child(request, token)
    try:
        yield from child.messages(target.repo, silence_seconds)
    finally:
        child.end()


class _Child:
    """The process that uploads, and what it says."""

    def __init__(self, request: dict[str, Any], token: str):
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "tuner.hub.upload"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(token),
            start_new_session=True,  # Ctrl-C is answered here, by ending it
        )
        self.token = token
        self.said: queue.Queue[bytes | None] = queue.Queue()
        self.last_words: deque[str] = deque(maxlen=KEPT_PIECES)
        for read in (self._read_answers, self._read_errors):
            threading.Thread(target=read, daemon=True).start()
        assert self.popen.stdin
        # It stays open: the child ends with it, and so with this process.
        self.popen.stdin.write(json.dumps(request).encode() + b"\n")
        self.popen.stdin.flush()

    def messages(self, repo: str, silence_seconds: float) -> Iterator[Progress | Pushed]:
        last = Progress(kind="progress", stage="checking", done_bytes=0, total_bytes=0)
        heard = time.monotonic()
        while True:
            try:
                line = self.said.get(timeout=min(TELL_SECONDS, silence_seconds))
            except queue.Empty:
                if time.monotonic() - heard >= silence_seconds:
                    raise HubError(_silent(repo, last["stage"], silence_seconds)) from None
                yield last
                continue
            heard = time.monotonic()
            if line is None:
                raise HubError(self._ended(repo))
            if not line:
                continue  # a sign of life without news
            message = json.loads(line)
            if message["kind"] == "error":
                raise HubError([self._without_token(problem) for problem in message["problems"]])
            yield message
            if message["kind"] == "pushed":
                return
            last = message

    def end(self) -> None:
        """End it, whatever it does. A commit is done on the Hub as a whole, or not at all."""
        self.popen.kill()
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if pipe:
                pipe.close()

    def _read_answers(self) -> None:
        assert self.popen.stdout
        try:
            for line in self.popen.stdout:
                self.said.put(line)
        except ValueError:  # closed, as nobody waits any more
            pass
        self.said.put(None)

    def _read_errors(self) -> None:
        assert self.popen.stderr
        try:
            while piece := self.popen.stderr.read1():  # type: ignore[attr-defined]
                self.last_words.append(piece.decode(errors="replace"))
                self.said.put(b"")
        except ValueError:
            pass

    def _ended(self, repo: str) -> str:
        code = self.popen.wait()
        how = f"exit code {code}"
        if code == -signal.SIGKILL:
            how = "killed, often for lack of memory"
        words = "".join(self.last_words).strip().splitlines() or [""]
        last = words[-1].strip()
        told = f": {self._without_token(last[:200])}" if last else ""
        return f"The upload to {repo} ended unexpectedly ({how}){told}. Push again to go on."

    def _without_token(self, text: str) -> str:
        return text.replace(self.token, "[token]")


def child_environment(token: str) -> dict[str, str]:
    """The environment of the process that uploads: the one place that holds the token."""
    theirs = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}
    inherited = {name: text for name, text in os.environ.items() if name not in theirs}
    path = os.pathsep.join([str(PROJECT_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    ours = {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "0" if xet_is_wanted() else "1",
        "HF_HUB_DISABLE_XET": "0" if xet_is_wanted() else "1",
        "PYTHONPATH": path,
        "PYTHONSAFEPATH": "1",  # a datasets.py in the folder we are in is not the library
    }
    if xet_is_wanted():
        ours["TQDM_POSITION"] = "-1"  # bars although nobody looks: they are the signs of life
    return {**inherited, **ours, "HF_TOKEN": token}


def _silent(repo: str, stage: str, seconds: float) -> str:
    done = "Whether it committed is not known" if stage == "committing" else "Nothing was committed"
    return (
        f"The push to {repo} was ended while {stage}: the Hub has not answered for {seconds:,.0f} "
        f"seconds. {done}. Push again to go on: what has arrived is not sent twice."
    )
