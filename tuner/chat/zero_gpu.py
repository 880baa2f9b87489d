"""
The playground on a ZeroGPU Space, where a GPU exists only within a call of the page's own process.

    client = ZeroGpuClient()             # before the page is launched, which counts such functions
    for piece in client.generate(base, rows):
        print(piece["text"], end="")

`spaces.GPU` forks this process for a call, and gives the fork a GPU for the seconds that were asked
for (gpu_seconds.py). The fork answers one request as the playground's own process does elsewhere
(server.py), and is kept, with its base, for a next call that comes soon.

What needs no GPU happens here, where it costs no quota: the base is downloaded, and the libraries
are imported, which a fork inherits. The base itself is loaded in the fork, although ZeroGPU advises
to load at import: that is for Spaces with one model. Here anybody may choose another, all forks
would be given all of them, and the imitation of CUDA that this takes holds in the main thread only,
while questions come in others.

A call is charged to the visitor whose event this thread answers. So the rows of one request are a
batch, as everywhere, but requests of several people are not joined.
Not covered: giving memory back (a fork's goes with it); training (device.training_refused).

https://huggingface.co/docs/hub/spaces-zerogpu
"""

import functools
import json
import re
import sys
import tempfile
import threading
import traceback
import uuid
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tuner.base_models.download import download
from tuner.base_models.hub import cached_folder
from tuner.base_models.lookup import find_base_model
from tuner.chat.client import CLOSED, State, error_of, last_reply
from tuner.chat.gpu_seconds import gpu_seconds
from tuner.chat.protocol import PieceMessage, Request, generate_request, score_request
from tuner.chat.server import AnsweringEngine, Server
from tuner.chat.voices import Base, Row, Voice
from tuner.errors import ChatError

# Titles of the errors that `spaces` raises, and the message of a call that outlived its seconds.
QUOTA, TOO_LONG, BUSY = "quota", "illegal duration", "queue timeout"
NO_GPU, ABORTED = "No GPU was available", "aborted"


class ZeroGpuClient:
    """Asks forks of this process; has what client.ChatClient has. Thread-safe."""

    def __init__(self) -> None:
        import spaces  # before torch, which it changes

        import tuner.chat.engine  # noqa: F401 (for the forks, where it would cost quota)

        self._on_gpu = spaces.GPU(duration=_seconds)(_replies)
        self._scratch = tempfile.TemporaryDirectory(prefix="tuner-zero-gpu-")
        self._cancels: dict[str, Path] = {}  # by request: a file with the rows to cancel
        self._local: dict[Base, tuple[Base, int]] = {}
        self._lock = threading.Lock()
        self._closed = False

    def generate(
        self, base: Base, rows: Sequence[Row], request: str | None = None
    ) -> Generator[PieceMessage, None, None]:
        """Answer rows in one call; closing the iterator ends it at the next token.

        Args:
            rows: At most waiting.MAX_ROWS; none only has the base downloaded.
            request: A name of one's own, by which `cancel` finds it.

        Raises:
            TunerError: What the engine says; ChatError when ZeroGPU gives no GPU, or takes it back.
        """
        local, weight_bytes = self._on_this_machine(base)
        if rows:
            asked = generate_request(local, rows, request or uuid.uuid4().hex)
            yield from self._answers(asked, weight_bytes)

    def score(
        self, base: Base, messages: Sequence[dict[str, str]], answer: str, voices: Sequence[Voice]
    ) -> Any:
        """How likely each voice finds the tokens of an answer; see engine.Scores.

        Raises:
            TunerError: As `generate`.
        """
        local, weight_bytes = self._on_this_machine(base)
        asked = score_request(local, messages, answer, voices, uuid.uuid4().hex)
        return last_reply(self._answers(asked, weight_bytes))["scores"]

    def load(self, base: Base) -> None:
        """Download a base; it comes to a GPU with a question.

        Raises:
            TunerError: As `generate`.
        """
        self._on_this_machine(base)

    def cancel(self, request: str, row: int | None = None) -> None:
        """End one row of a request that was named, or all of them, at the next token."""
        if file := self._cancels.get(request):
            # The fork shares nothing else with us that could be written to after it began.
            with open(file, "a", encoding="ascii") as lines:
                lines.write(f"{json.dumps(row)}\n")

    def state(self) -> State:
        """Ready while somebody is answered, else off: between calls there is no GPU."""
        return "ready" if self._cancels else "off"

    def loaded(self) -> Base | None:
        """None: nothing is in memory here."""
        return None

    def is_loaded(self) -> bool:
        """False; see `loaded`."""
        return False

    def unload(self) -> None:
        """Nothing: a GPU goes back by itself, and another visitor's answer is theirs to end."""

    def close(self) -> None:
        """Answer nobody any more."""
        self._closed = True
        self._scratch.cleanup()

    def _answers(
        self, request: Request, weight_bytes: int
    ) -> Generator[PieceMessage, None, dict[str, Any]]:
        last: dict[str, Any] = {}
        asked = (request, weight_bytes)
        with (
            self._cancel_file(request["id"]) as cancels,
            _refusals_as_sentences(_seconds(*asked)),
            closing(self._on_gpu(*asked, str(cancels))) as replies,
        ):
            for reply in replies:
                if "piece" in reply:
                    yield reply["piece"]
                elif "state" not in reply:
                    last = reply
        if "error" in last or not last:
            raise error_of(last) if last else ChatError(_cut_short(_seconds(*asked)))
        return last

    @contextmanager
    def _cancel_file(self, name: str) -> Iterator[Path]:
        with self._lock:
            if self._closed:
                raise ChatError(CLOSED)
            if name in self._cancels:
                raise ChatError(f"A request named {name} is being answered already.")
            file = self._cancels[name] = Path(self._scratch.name) / uuid.uuid4().hex
        try:
            yield file
        finally:
            del self._cancels[name]
            file.unlink(missing_ok=True)

    def _on_this_machine(self, base: Base) -> tuple[Base, int]:
        """The base by its folder, so that a fork asks the Hub nothing, and its weights' bytes."""
        if base not in self._local:
            found = find_base_model(base.model, base.revision)
            download(found, lambda *_: None)
            folder = None if found.folder else cached_folder(base.model, found.revision)
            local = replace(base, model=str(folder), revision=None) if folder else base
            _import_model(found.config.get("model_type"))
            self._local[base] = local, found.weight_bytes
        return self._local[base]


def _import_model(model_type: Any) -> None:
    """Import what loading a model of this type imports, two seconds that each fork then saves."""
    import transformers
    import transformers.integrations
    from transformers.models.auto import modeling_auto, tokenization_auto  # noqa: F401

    name = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type, "PreTrainedModel")
    getattr(transformers, name)


def _seconds(request: Request, weight_bytes: int, _cancels: str = "") -> int:
    """What `spaces` asks how long a call will take; it gives us what the call is given."""
    rows = request.get("rows", [])
    voices = [*request.get("voices", []), *(row["voice"] for row in rows)]
    full_models = {voice["model"] for voice in voices if voice["model"]}
    return gpu_seconds(request, weight_bytes, len(full_models))


def _replies(request: Request, weight_bytes: int, cancels: str) -> Iterator[dict[str, Any]]:
    """In the fork: answer one request; see protocol.py for what comes. Raises nothing, as of what
    is raised here only the name comes across."""
    yield from _fork().replies(request, Path(cancels))


@functools.cache
def _fork() -> "_Fork":
    return _Fork()


class _Fork:
    """The engine in a forked process, and what it holds for the next call."""

    def __init__(self) -> None:
        self._replies: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._server = Server(_load, self._replies.put, idle_seconds=0)

    def replies(self, request: Request, cancels: Path) -> Iterator[dict[str, Any]]:
        """Each reply as it is made; one that is read no further is cancelled."""
        self._tell(request)
        thread = threading.Thread(target=self._answer, daemon=True)
        thread.start()
        try:
            for reply in iter(self._replies.get, None):
                yield reply
                for row in _rows_in(cancels):
                    self._tell(Request(id=request["id"], do="cancel", row=row))
        finally:
            self._tell(Request(id=request["id"], do="cancel", row=None))
            thread.join()  # the next call begins with nothing at work
            while not self._replies.empty():
                self._replies.get()

    def _answer(self) -> None:
        try:
            self._server.run()
        finally:
            self._replies.put(None)

    def _tell(self, request: Request) -> None:
        self._server.receive(json.dumps(request).encode())


def _load(base: Base) -> AnsweringEngine:
    from tuner.chat.engine import Engine

    return Engine(base)


def _rows_in(cancels: Path) -> list[int | None]:
    with suppress(OSError):
        return [json.loads(line) for line in cancels.read_text(encoding="ascii").splitlines()]
    return []


@contextmanager
def _refusals_as_sentences(seconds: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 (whatever spaces raises: its own classes are none)
        if not getattr(error, "title", ""):
            # Without the message: it may be an address, and ours hold the visitor's token.
            print(f"ZeroGPU: {type(error).__name__}", file=sys.stderr)
            traceback.print_tb(error.__traceback__)
        raise refusal(error, seconds) from None


def refusal(error: Exception, seconds: int) -> ChatError:
    """What an error of `spaces` means for the person who asked.

    It raises Gradio's error with a title for what is foreseen; that is told by its attributes, as
    only the page may import Gradio.

    Args:
        seconds: That were asked for.
    """
    title = str(getattr(error, "title", ""))
    said = re.sub(r"<[^>]*>", "", str(getattr(error, "message", ""))).strip().rstrip(".")
    if not title:
        name = type(error).__name__
        return ChatError(f"ZeroGPU cannot be asked for a GPU ({name}). Ask again in a moment.")
    if said.startswith(NO_GPU) or BUSY in title:
        return ChatError("No GPU was free within a minute. Ask again in a moment.")
    if QUOTA in title or "credits" in title:
        return ChatError(
            f"{said}. Everybody has some minutes of GPU time a day: sign in to Hugging Face for "
            "more, set max_new_tokens lower, or come back later."
        )
    if TOO_LONG in title:
        return ChatError(
            f"This answer needs {seconds} seconds of a GPU, more than ZeroGPU gives you at once. "
            "Ask fewer voices at once, or set max_new_tokens lower."
        )
    if ABORTED in said:
        return ChatError(_cut_short(seconds))
    return ChatError(f"{title}: {said}. Reload the page, and ask again.")


def _cut_short(seconds: int) -> str:
    return (
        f"The GPU was taken back before the answer was complete; {seconds} seconds were asked for. "
        "Set max_new_tokens lower, or shorten the conversation."
    )
