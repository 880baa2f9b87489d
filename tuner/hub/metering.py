"""
How far an upload is, counted where the bytes leave, and a bound on how long the Hub is waited for.

huggingface_hub shows bars on a terminal; its HTTP client lets us see every request instead.
Not covered: Xet, whose own client sends the bytes.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tuner.errors import HubError
from tuner.hub.api import LONGEST_WAIT, new_client
from tuner.hub.failures import seconds_to_wait

if TYPE_CHECKING:
    import httpx2

TELL_SECONDS = 0.2


class Meter:
    """Tells how far the push is, not too often.

    Args:
        tell: Sends one message.
    """

    def __init__(self, tell: Callable[[Mapping[str, Any]], None]):
        self._tell = tell
        self._lock = threading.Lock()
        self._stage, self._total, self._told_at = "checking", 0, 0.0
        self._sent: dict[str, int] = {}

    def begin(self, stage: str, total: int = 0) -> None:
        """Enter a stage in which `total` bytes will go."""
        self._stage, self._total, self._sent = stage, total, {}
        self.alive(now=True)

    def committing(self) -> None:
        """All bytes are there; the commit is on its way."""
        self._stage, self._sent = "committing", {"": self._total}
        self.alive(now=True)

    def moved(self, what: str, count: int) -> None:
        """So many bytes of one thing have gone by now."""
        self._sent[what] = count
        self.alive()

    def alive(self, now: bool = False) -> None:
        """Something came or went."""
        with self._lock:
            if not now and time.monotonic() - self._told_at < TELL_SECONDS:
                return
            self._told_at = time.monotonic()
            done = min(sum(self._sent.copy().values()), self._total)
        figures = {"done_bytes": done, "total_bytes": self._total}
        self._tell({"kind": "progress", "stage": self._stage, **figures})


def counted(stream: Any, moved: Callable[[int], None]) -> "httpx2.SyncByteStream":
    """The body of a request, which tells how many bytes of it were taken."""
    import httpx2

    class Counted(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            done = 0
            for piece in stream:
                yield piece
                done += len(piece)
                moved(done)

        def close(self) -> None:
            stream.close()

    return Counted()


def watch_requests(meter: Meter, answer_seconds: float) -> None:
    """Let a meter see all requests of this process, and refuse to wait for hours.

    The client's own retries wait as long as the Hub asks, without a bound.
    """
    from huggingface_hub import set_client_factory

    def before(request: "httpx2.Request") -> None:
        if request.method == "PUT":
            # The whole address: parts of one file differ in its query only. Tried again, it counts
            # from its beginning.
            address = str(request.url)
            request.stream = counted(request.stream, lambda count: meter.moved(address, count))
        elif request.method == "POST" and "/commit/" in request.url.path:
            meter.committing()

    def after(response: "httpx2.Response") -> None:
        meter.alive()
        refuse_long_waits(response)

    def factory() -> Any:
        client = new_client(answer_seconds)
        hooks = client.event_hooks
        hooks = {"request": [*hooks["request"], before], "response": [*hooks["response"], after]}
        client.event_hooks = hooks
        return client

    set_client_factory(factory)


def refuse_long_waits(response: "httpx2.Response") -> None:
    """End a push that the Hub wants to continue much later.

    Raises:
        HubError: It asks for more than LONGEST_WAIT seconds.
    """
    asked = seconds_to_wait(response)
    if response.status_code >= 400 and asked > LONGEST_WAIT:
        raise HubError(
            f"The Hub asks to slow down ({response.status_code}) and to come back in {asked:,.0f} "
            "seconds. Push again then: what has arrived is not sent twice."
        )
