"""
A chat template, rendered within limits: it is a program, and whoever made the model wrote it.

    text, spans = ChatTemplate(tokenizer).render(messages, add_generation_prompt=True)

transformers renders it in Jinja's sandbox, which keeps it from files and from Python's insides.
Here it is kept from running without end, from filling the memory, and from writing a library about
one question. Whatever else goes wrong in it is its own refusal, in a sentence.

Not covered: a single operation that computes for minutes without coming back to Python; the one
that is known, a power of huge numbers, is refused. Memory is limited on Linux only.
"""

import ctypes
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment
from jinja2.exceptions import TemplateError
from transformers.utils import chat_template_utils
from transformers.utils.chat_template_utils import render_jinja_template

from tuner.errors import ModelError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

SECONDS = 5.0  # for one conversation; templates in use take a millisecond
MEAN_SECONDS = 0.05  # for each of many, so that a thousand slow ones are no way around it
MEMORY_BYTES = 2 << 30
LONGEST = 1_000_000  # characters that a template may add
LENGTHENS = 20  # and how often it may repeat what a conversation says
LOOKS_SECONDS = 0.1
STATM = Path("/proc/self/statm")
REMEDY = "Choose another base model, or repair its chat template."

Span = tuple[int, int]  # half-open [start, end), in characters


class ChatTemplate:
    """The template of one tokenizer.

    Args:
        tokenizer: From `load_tokenizer` (tokenizer.py).
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._seconds, self._rendered = 0.0, 0

    def render(
        self, messages: Sequence[dict[str, str]], add_generation_prompt: bool = False
    ) -> tuple[str, list[Span]]:
        """One conversation; the spans are the template's own marks, empty where it has none.

        Raises:
            TemplateError: The template refuses the conversation, or fails at it.
            ModelError: It exceeds a limit, so nothing can be done with this model.
        """
        return self._within_limits([messages], add_generation_prompt)[0]

    def render_many(
        self, conversations: Sequence[Sequence[dict[str, str]]], add_generation_prompt: bool = False
    ) -> list[tuple[str, list[Span]]]:
        """Several conversations within the limits of one, which costs much less than one by one.

        Returns:
            As `render`, of each; nothing at all where one of them fails: render each by itself.
        """
        try:
            return self._within_limits(conversations, add_generation_prompt)
        except (TemplateError, ModelError):
            return []

    def _within_limits(
        self, conversations: Sequence[Sequence[dict[str, str]]], add_generation_prompt: bool
    ) -> list[tuple[str, list[Span]]]:
        template = self._tokenizer.chat_template
        _refuse_powers(template)
        marked = "{% generation" in re.sub(r"\{%-\s*", "{% ", template)
        begun = time.monotonic()
        with _limits():
            _with_plain_globals(template)
            texts, spans = render_jinja_template(
                [list(messages) for messages in conversations],
                chat_template=template,
                return_assistant_tokens_mask=marked,
                add_generation_prompt=add_generation_prompt,
                **self._tokenizer.special_tokens_map,
            )
        self._require_quick(time.monotonic() - begun, len(conversations))
        for text, messages in zip(texts, conversations, strict=True):
            _require_short(text, messages)
        marks = spans if marked else [[]] * len(texts)
        return [
            (text, [(start, end) for start, end in found])
            for text, found in zip(texts, marks, strict=True)
        ]

    def _require_quick(self, seconds: float, conversations: int) -> None:
        self._seconds, self._rendered = self._seconds + seconds, self._rendered + conversations
        if self._seconds > SECONDS + MEAN_SECONDS * self._rendered:
            raise _too_long(f"{self._rendered:,} conversations took {self._seconds:,.0f} seconds")


class TookTooLong(BaseException):
    """Ends a rendering from outside; no Exception, so that nothing inside takes it for its own."""


class _Watch:
    """A thread that ends a rendering after its time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = threading.Event()
        self._thread: threading.Thread | None = None
        self._current: tuple[int, float] | None = None  # thread, and when it must be done

    def begin(self, seconds: float) -> None:
        with self._lock:
            self._current = threading.get_ident(), time.monotonic() + seconds
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._look, daemon=True)
                self._thread.start()
        self._begun.set()

    def end(self) -> None:
        """Raises TookTooLong if the time was over."""
        with self._lock:
            in_time, self._current = self._current is not None, None
        if not in_time:  # it was told, and has perhaps not heard yet
            _interrupt(threading.get_ident(), None)
            raise TookTooLong

    def _look(self) -> None:
        while self._begun.wait():
            with self._lock:
                if self._current is None:
                    self._begun.clear()
                elif time.monotonic() > self._current[1]:
                    _interrupt(self._current[0], TookTooLong)
                    self._current = None
            time.sleep(LOOKS_SECONDS)


_watch = _Watch()
_one_at_a_time = threading.RLock()  # the memory's limit is the process's


@contextmanager
def no_template_runs() -> Iterator[None]:
    """While another thread takes much memory (loads a model, opens CUDA): templates wait for it.

    The limit on a template's memory is the whole process's, and would strike that thread.
    """
    with _one_at_a_time:
        yield


@contextmanager
def _limits() -> Iterator[None]:
    try:
        with _one_at_a_time, _memory_limit(MEMORY_BYTES):
            _watch.begin(SECONDS)
            try:
                yield
            finally:
                _watch.end()
    except TookTooLong:
        raise _too_long(f"one conversation took more than {SECONDS:g} seconds") from None
    except MemoryError:
        raise ModelError(
            f"The model's chat template takes more than {MEMORY_BYTES >> 30} GB of memory for one "
            f"conversation. {REMEDY}"
        ) from None
    except TemplateError:
        raise
    except Exception as error:
        # It is a program of somebody else's: whatever it raises is a mistake in it.
        raise TemplateError(f"{type(error).__name__}: {str(error)[:200]}") from error


@contextmanager
def _memory_limit(more: int) -> Iterator[None]:
    """Let this process grow by `more` bytes at most; what is asked beyond is a MemoryError."""
    limits = _memory_limits(more)
    if limits is None:
        yield
        return
    before, within = limits
    resource.setrlimit(resource.RLIMIT_AS, within)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _memory_limits(more: int) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The limits as they are, and as they should be; None where there is nothing to be done."""
    if resource is None or not STATM.exists():
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = 0
    with suppress(OSError, ValueError):
        pages = int(STATM.read_text().split()[0])
    wanted = pages * os.sysconf("SC_PAGE_SIZE") + more
    if not pages or (soft != resource.RLIM_INFINITY and soft <= wanted):
        return None
    return (soft, hard), (wanted, hard)


@lru_cache(maxsize=8)
def _with_plain_globals(template: str) -> None:
    """Jinja copies a template's globals for each rendering; of its chain of dicts that is slow."""
    compile_template = getattr(chat_template_utils, "_compile_jinja_template", None)
    if compile_template is None:
        return  # no longer where transformers had it: then it takes a quarter longer
    compiled = compile_template(template)
    compiled.globals = dict(compiled.globals)


@lru_cache(maxsize=8)
def _refuse_powers(template: str) -> None:
    """Refuse `a ** b`; `f(**names)` is another thing.

    Raises:
        TemplateError: There is one, or the template cannot be read.
    """
    before = ""
    for _, kind, text in Environment().lex(template):
        if kind == "operator" and text == "**" and before not in ("(", ","):
            raise TemplateError("it computes powers, which no template needs and which may not end")
        if kind != "whitespace":
            before = text


def _require_short(text: str, messages: Sequence[dict[str, str]]) -> None:
    said = sum(len(message["content"]) for message in messages)
    if len(text) > LONGEST + LENGTHENS * said:
        raise ModelError(
            f"The model's chat template makes {len(text):,} characters of a conversation of "
            f"{said:,}. {REMEDY}"
        )


def _too_long(what: str) -> ModelError:
    return ModelError(f"The model's chat template does not come to an end: {what}. {REMEDY}")


def _interrupt(thread: int, kind: type[BaseException] | None) -> None:
    """Raise in another thread, between two steps of its program; with None, don't after all."""
    raised = ctypes.py_object(kind) if kind else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)
