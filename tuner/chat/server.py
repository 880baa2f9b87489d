"""
The process that answers: requests as JSON lines on stdin, replies as JSON lines on stdout.

    python -m tuner.chat --idle-seconds 600

One thread reads requests, cancels included; the main one has the model and answers batch after
batch (waiting.py says whose turn it is). One base is in memory at a time. Whatever else prints goes
to stderr. What goes wrong becomes the sentences of a reply, and the process goes on; only a GPU
whose context is lost takes it along. It ends with its stdin, and when nobody asks for a while: that
is the whole of giving memory back, libraries and GPU context included.
Not covered: starting it and starting it anew (client.py); what goes over the pipe (protocol.py).
"""

import gc
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol

from tuner.chat.history import left_out_note, trim
from tuner.chat.protocol import Request, base_message, base_of, row_of, voice_of
from tuner.chat.voices import Base, Piece, Row, Voice
from tuner.chat.waiting import MAX_ROWS, MAX_WAITING, Asked, Waiting
from tuner.errors import ChatError, TunerError

CANCELLED = "cancelled"


class AnsweringEngine(Protocol):
    """What the process needs of chat.engine.Engine."""

    context_length: int
    renderer: Any

    def attach(self, folder: str) -> None: ...

    def generate(
        self, rows: Sequence[Row], cancelled: Callable[[int], bool]
    ) -> Iterator[Piece]: ...

    def score(self, messages: Any, answer: str, voices: Sequence[Voice]) -> Any: ...


def serve(load: Callable[[Base], AnsweringEngine], idle_seconds: float | None) -> None:
    """Answer what comes on stdin, until that ends or nobody asks for `idle_seconds`."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # native code prints as well

    def write(reply: dict[str, Any]) -> None:
        try:
            replies.write(json.dumps(reply).encode() + b"\n")
            replies.flush()
        except BrokenPipeError:  # who asked is gone
            os._exit(0)

    def read() -> None:
        for line in sys.stdin.buffer:
            server.receive(line)
        # Whoever started us is gone or wants the memory back. Nothing here is worth a farewell,
        # and the main thread may be deep in a computation.
        os._exit(0)

    server = Server(load, write, idle_seconds)
    threading.Thread(target=read, daemon=True).start()
    server.run()
    # At an ordinary exit, Python would wait for the other thread's lock on stdin.
    os._exit(0)


class Server:
    """Takes requests in one thread and answers them in another.

    Args:
        load: Brings a base into memory.
        write: Sends a reply.
        idle_seconds: How long `run` waits for a request; None for ever.
    """

    def __init__(
        self,
        load: Callable[[Base], AnsweringEngine],
        write: Callable[[dict[str, Any]], None],
        idle_seconds: float | None,
    ):
        self._load = load
        self._idle_seconds = idle_seconds
        self._write_unlocked = write
        self._write_lock = threading.Lock()
        self._waiting = Waiting()
        self._asked: dict[str, Asked] = {}
        self._base: Base | None = None
        self._engine: AnsweringEngine | None = None

    def receive(self, line: bytes) -> None:
        """Take one request, or cancel one."""
        message: Any = None
        try:
            message = json.loads(line)
            if message["do"] == "cancel":
                self._cancel(message["id"], message.get("row"))
            else:
                self._add(_asked(message))
        except TunerError as error:
            self._write(_failure(message["id"], error))
        except (ValueError, KeyError, TypeError) as error:
            name = message.get("id") if isinstance(message, dict) else None
            self._write(_failure(name, ChatError(f"This is no request: {error!r}.")))

    def run(self) -> None:
        """Answer batch after batch, until nothing comes for a while."""
        while batch := self._waiting.next_batch(self._idle_seconds):
            try:
                self._answer(batch)
            except Exception as error:  # noqa: BLE001 (nothing foreseen; the next may go well)
                self._recover(batch, error)

    def _add(self, asked: Asked) -> None:
        self._asked[asked.id] = asked
        if not self._waiting.add(asked):
            self._fail(
                asked,
                ChatError(f"{MAX_WAITING} questions wait already. Ask again in a few minutes."),
            )

    def _cancel(self, request: str, row: int | None) -> None:
        if asked := self._asked.get(request):
            asked.cancel(row)
            if asked.is_cancelled and self._waiting.remove(asked):
                self._end_cancelled(asked)

    def _answer(self, batch: list[Asked]) -> None:
        engine = self._engine_for(batch[0].base)
        if (scored := batch[0].scored) is not None:
            scores = engine.score(*scored)
            self._write({"id": batch[0].id, "scores": asdict(scores)})
            del self._asked[batch[0].id]
            return
        ready = [asked for asked in batch if self._is_ready(engine, asked)]
        if ready:
            self._generate(engine, ready)

    def _engine_for(self, base: Base) -> AnsweringEngine:
        """The engine of a base; the one before is let go first, as two may not fit."""
        if self._engine is None or self._base != base:
            self._let_go()
            self._write({"state": "loading", "base": base_message(base)})
            self._engine, self._base = self._load(base), base
            self._write({"state": "ready", "base": base_message(base)})
        return self._engine

    def _let_go(self) -> None:
        self._engine = self._base = None
        gc.collect()
        if torch := sys.modules.get("torch"):
            torch.cuda.empty_cache()
        self._write({"state": "empty", "base": None})

    def _is_ready(self, engine: AnsweringEngine, asked: Asked) -> bool:
        """Make a request ready for a batch; one that cannot be answered spoils no other's."""
        if asked.is_cancelled or not asked.rows:
            self._end_cancelled(asked)
            return False
        try:
            for row in asked.rows:
                if row.voice.adapter:
                    engine.attach(row.voice.adapter)
            asked.rows = tuple(self._trimmed(engine, asked, row) for row in range(len(asked.rows)))
        except TunerError as error:
            self._fail(asked, error)
            return False
        return True

    def _trimmed(self, engine: AnsweringEngine, asked: Asked, number: int) -> Row:
        row, limit = asked.rows[number], engine.context_length
        messages, left_out = trim(
            row.messages,
            lambda messages: len(engine.renderer.prompt_ids(messages)),
            limit,
            row.sampling.max_new_tokens,
        )
        if left_out:
            note = left_out_note(left_out, limit)
            self._write_piece(asked, Piece(number, "", note=note))
        return replace(row, messages=messages)

    def _generate(self, engine: AnsweringEngine, batch: list[Asked]) -> None:
        """Answer all rows of several requests in one pass, each piece to whom it belongs."""
        owners = [(asked, row) for asked in batch for row in range(len(asked.rows))]
        left = {asked.id: len(asked.rows) for asked in batch}

        def cancelled(index: int) -> bool:
            asked, row = owners[index]
            return row in asked.cancelled

        for piece in engine.generate([asked.rows[row] for asked, row in owners], cancelled):
            asked, row = owners[piece.row]
            asked.told = asked.told or bool(piece.text)
            self._write_piece(asked, replace(piece, row=row))
            left[asked.id] -= piece.done
            if not left[asked.id]:
                self._end(asked)

    def _recover(self, batch: list[Asked], error: Exception) -> None:
        """Say what went wrong, and try those alone that may have suffered by another's request."""
        unanswered = [asked for asked in batch if asked.id in self._asked]
        together = len(batch) > 1 and self._engine is not None  # else it is the base that fails
        again = [asked for asked in unanswered if together and not asked.told]
        for asked in again:
            asked.alone = True
        for asked in unanswered:
            if asked not in again:
                self._fail(asked, error)
        self._waiting.put_back(again)
        if not isinstance(error, TunerError):
            traceback.print_exception(error)
            if "CUDA error" in str(error):  # nothing more can be computed in this process
                os._exit(1)
            error.__traceback__ = None  # it holds the tensors of the pass
        if self._engine is None or not isinstance(error, TunerError):
            self._let_go()  # it is in a state that nobody knows

    def _end_cancelled(self, asked: Asked) -> None:
        for row in range(len(asked.rows)):
            self._write_piece(asked, Piece(row, "", done=True, reason=CANCELLED))
        self._end(asked)

    def _end(self, asked: Asked) -> None:
        del self._asked[asked.id]
        self._write({"id": asked.id, "end": True})

    def _fail(self, asked: Asked, error: Exception) -> None:
        del self._asked[asked.id]
        self._write(_failure(asked.id, error))

    def _write_piece(self, asked: Asked, piece: Piece) -> None:
        self._write({"id": asked.id, "piece": asdict(piece)})

    def _write(self, reply: dict[str, Any]) -> None:
        with self._write_lock:
            self._write_unlocked(reply)


def explain(error: Exception) -> TunerError:
    """A sentence for an error that nobody foresaw."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return ChatError(
            "Memory ran out. Ask fewer at once, shorten the conversation, or hold the base in 4 "
            "bits (quantization: nf4)."
        )
    if "can't allocate memory" in text:
        return explain(MemoryError())
    return ChatError(f"{type(error).__name__}: {text[:300]}. The engine's log has the whole story.")


def _asked(message: Request) -> Asked:
    base = base_of(message["base"])
    if message["do"] == "score":
        voices = [voice_of(voice) for voice in message["voices"]]
        scored = (message["messages"], message["answer"], voices)
        return Asked(message["id"], base, scored=scored, alone=True)
    rows = tuple(map(row_of, message["rows"]))
    if len(rows) > MAX_ROWS:
        raise ChatError(f"{len(rows)} answers at once are more than {MAX_ROWS}. Ask for fewer.")
    return Asked(message["id"], base, rows)


def _failure(request: str | None, error: Exception) -> dict[str, Any]:
    known = error if isinstance(error, TunerError) else explain(error)
    return {"id": request, "error": known.problems, "kind": type(known).__name__}
