"""
Fetch a model from the Hub into this machine's cache, and say how far that is.

    download(find_base_model("Qwen/Qwen3-0.6B"), lambda done, total: print(done, "of", total))

What transformers reads is fetched: settings, tokenizer, safetensors weights; never a pickle. It is
loaded by name and commit afterwards, as ever, and found in the cache.
As for a lookup, a Hub that does not answer within TIMEOUT is not waited for. One that breaks off is
asked to go on, by huggingface_hub, until five attempts in a row bring nothing.
"""

import errno
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from tuner.base_models.checkpoint import CONFIG, INDEX, weight_files
from tuner.base_models.hub import (
    TIMEOUT,
    Unreachable,
    cached_folder,
    failures_as_sentences,
    refusal,
)
from tuner.base_models.lookup import BaseModel
from tuner.errors import ModelError

SMALL_FILES = {
    CONFIG,
    INDEX,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
}
WORKERS = 8
POLL_SECONDS = 0.2
# The client's own pieces have ten times as much: on a slow line, nothing would move for half a
# minute, and a stop is answered between two of them.
PIECE_BYTES = 1 << 20

Progress = Callable[[int, int], None]


def download(base: BaseModel, progress: Progress, token: str | None = None) -> None:
    """Fetch what is missing of a model on the Hub. What is in a folder already needs nothing.

    Args:
        progress: Called several times a second, in this thread, with the bytes that are here and
            those that were missing; not at all where none were. What it raises ends the download.
        token: Of the person asking, for private and gated models; None for the machine's own.

    Raises:
        ModelError: The Hub cannot be reached or refuses, or the disk is full.
    """
    if base.folder or base.revision is None:
        return
    try:
        with failures_as_sentences(base.name, base.revision, ()):
            missing = _missing(base.name, base.revision, token)
    except Unreachable as unreachable:
        if cached_folder(base.name, base.revision):
            return  # all of it, most likely; loading it will tell
        raise _not_downloaded(base.name, unreachable) from None
    if missing:
        _require_room(base.name, sum(missing.values()))
        with _failures_as_sentences(base.name, base.revision):
            _fetch(base.name, base.revision, missing, progress, token)


def _missing(name: str, commit: str, token: str | None) -> dict[str, int]:
    """The files that are not in the cache, with their sizes in bytes."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    info = HfApi(token=token).model_info(
        name, revision=commit, files_metadata=True, timeout=TIMEOUT
    )
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}
    wanted = {*SMALL_FILES, *weight_files(sizes, name)}
    return {
        file: size
        for file, size in sizes.items()
        if file in wanted
        and not isinstance(try_to_load_from_cache(name, file, revision=commit), str)
    }


def _fetch(
    name: str, commit: str, files: dict[str, int], progress: Progress, token: str | None
) -> None:
    from huggingface_hub import hf_hub_download

    def fetch(file: str, meter: Any) -> str:
        return hf_hub_download(
            name, file, revision=commit, etag_timeout=TIMEOUT, token=token, tqdm_class=meter
        )

    fetch_files(files, fetch, progress)


def fetch_files(
    files: Mapping[str, int], fetch: "Callable[[str, FileMeter], Any]", progress: Progress
) -> None:
    """Download several files at once.

    Args:
        files: Name → bytes.
        fetch: Downloads one of this name, with a `tqdm_class` that meters it.
        progress: See `download`. What it raises ends all downloads.

    Raises:
        What `fetch` or `progress` raised.
    """
    from huggingface_hub import constants

    constants.DOWNLOAD_CHUNK_SIZE = PIECE_BYTES
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="download")
    meters: dict[Future[Any], FileMeter] = {}
    try:
        for file, size in files.items():
            meter = FileMeter(size)
            meters[pool.submit(fetch, file, meter)] = meter
        _follow(meters, progress)
    except BaseException:
        _cancel(pool, list(meters.values()))
        raise
    finally:
        pool.shutdown()


def _follow(meters: "dict[Future[Any], FileMeter]", progress: Progress) -> None:
    total, pending = sum(meter.size for meter in meters.values()), set(meters)
    progress(0, total)
    while pending:
        done, pending = wait(pending, POLL_SECONDS, return_when=FIRST_EXCEPTION)
        for fetched in done:
            fetched.result()
            meters[fetched].complete()
        progress(sum(meter.done for meter in meters.values()), total)


def _cancel(pool: ThreadPoolExecutor, meters: "list[FileMeter]") -> None:
    from huggingface_hub.utils._xet import abort_xet_session

    for meter in meters:
        meter.cancelled = True
    pool.shutdown(wait=False, cancel_futures=True)
    abort_xet_session()


class Cancelled(Exception):
    """Ends one file's download in its thread; what it left on the disk is removed there."""


class FileMeter:
    """How much of one file is here. huggingface_hub takes it for a class of tqdm bars.

    Over plain HTTP, bytes are received and written at once. With Xet they are received first,
    compressed, and written later, in large pieces: what was received says more in between.

    Args:
        size: Bytes.
    """

    def __init__(self, size: int):
        self.size = size
        self.cancelled = False
        self._written = self._received = 0
        self._stoppable = True

    def __call__(self, **bar: Any) -> Self:
        """Make the bar: one a file, which is this."""
        self._stop()
        # Xet reports from a thread of its own, to which an exception means nothing; it is aborted.
        self._stoppable = "bar_format" not in bar
        return self

    @property
    def done(self) -> int:
        return min(self.size, max(self._written, self._received))

    def complete(self) -> None:
        """All of it is here, perhaps without a byte reported: another process was faster."""
        self._written = self.size

    def update(self, n: float | None = 1) -> None:
        self._written += int(n or 0)
        if self._stoppable:
            self._stop()

    def update_transfer(self, n: float | None = 1) -> None:
        self._received += int(n or 0)

    def set_postfix_str(self, *_: Any, **__: Any) -> None:
        pass

    def set_transfer_postfix_str(self, *_: Any, **__: Any) -> None:
        pass

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _stop(self) -> None:
        if self.cancelled:
            raise Cancelled


def _require_room(name: str, needed: int) -> None:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    with suppress(OSError):  # another kind of disk; it says so itself when it is full
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free
        if free < needed:
            raise ModelError(
                f"{name} has {needed / 1e9:,.1f} GB to download, and the disk of {cache} has "
                f"{free / 1e9:,.1f} GB free. Free some room, or set HF_HOME to a folder on another "
                "disk."
            )


@contextmanager
def _failures_as_sentences(name: str, commit: str) -> Iterator[None]:
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        yield
    except (LocalEntryNotFoundError, HfHubHTTPError) as error:
        cause = error if isinstance(error, HfHubHTTPError) else error.__cause__
        if not isinstance(cause, HfHubHTTPError):
            raise _not_downloaded(name, _no_connection(cause or error)) from error
        answer = refusal(cause, name, commit, ())
        if isinstance(answer, ModelError):
            raise answer from None
        raise _not_downloaded(name, answer) from None
    except httpx2.TransportError as error:
        raise _not_downloaded(name, _no_connection(error)) from error
    except OSError as error:
        full = error.errno == errno.ENOSPC
        why = "the disk is full" if full else str(error).strip().split("\n")[0].rstrip(".")
        remedy = "Free some room" if full else "Try again"
        raise _not_downloaded(name, Unreachable(why, remedy)) from error


def _no_connection(error: BaseException) -> Unreachable:
    why = f"the Hub cannot be reached ({type(error).__name__})"
    return Unreachable(why, "Connect to the internet")


def _not_downloaded(name: str, unreachable: Unreachable) -> ModelError:
    return ModelError(
        f"{name} could not be downloaded: {unreachable}. {unreachable.remedy}, and start again: "
        "files that are complete are kept."
    )
