"""
The Hub's client as Tuner uses it: with timeouts, bounded patience, and failures as sentences.

    api = hub_api(token)
    with hub_sentences("look at", repo):
        info = patiently(lambda: api.model_info(repo))

huggingface_hub waits for ever where nobody answers, does not retry what a person clicks on, and
raises six families of exceptions. All of that is answered here, once.
huggingface_hub is imported inside the functions: it takes half a second.
Not covered: looking up base models (base_models/hub.py) and data sets (data/hub.py).
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from tuner.errors import HubError, TunerError
from tuner.hub.failures import reason, seconds_to_wait, told_by_us

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 20.0  # between two signs of life of one request
LONGEST_WAIT = 60.0  # seconds that the Hub may ask to wait; the client itself would wait hours
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each new try, as the client waits in an upload
RETRIED = (408, 429, 500, 502, 503, 504)

Result = TypeVar("Result")
_answer_seconds: float | None = None


def hub_api(token: str | None, answer_seconds: float = ANSWER_SECONDS) -> "HfApi":
    """A client for one person.

    Args:
        token: Whose it is. None asks as a stranger, never with this machine's own login: in a
            Space that would be the owner's, whoever asked.
        answer_seconds: Without a sign of life for so long, a request fails. It holds for the whole
            process, so a process uses one value.
    """
    from huggingface_hub import HfApi

    _set_timeouts(answer_seconds)
    return HfApi(token=token or False)


def machine_token() -> str | None:
    """HF_TOKEN, or what `hf auth login` left here. Not for others who visit this machine."""
    from huggingface_hub import get_token

    return get_token()


def endpoint() -> str:
    """Where the Hub is: the address of its pages."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def patiently(
    call: Callable[[], Result],
    waits: Sequence[float] = WAITS,
    but_not: Sequence[str] = (),
) -> Result:
    """Call, and call again where the Hub is busy, out of order, or the connection broke off.

    What timed out is not asked again: it had its time.

    Args:
        waits: Seconds before each new try; their number bounds the tries. The Hub may ask for a
            longer wait, up to LONGEST_WAIT.
        but_not: Parts of paths that the client itself has tried often enough.

    Raises:
        What the last try raised.
    """
    from httpx2 import TimeoutException, TransportError
    from huggingface_hub.errors import HfHubHTTPError

    for wait in waits:
        try:
            return call()
        except TimeoutException:
            raise
        except (TransportError, HfHubHTTPError) as error:
            asked = _wait_before_retry(error, but_not)
            if asked is None:
                raise
            time.sleep(max(wait, asked))
    return call()


def _wait_before_retry(
    error: "httpx2.TransportError | HfHubHTTPError", but_not: Sequence[str]
) -> float | None:
    """Seconds that the Hub asks for; None where it is not asked again."""
    from huggingface_hub.errors import HfHubHTTPError

    if not isinstance(error, HfHubHTTPError):
        return None if _is_of(error.request, but_not) else 0.0
    # Its own `request` is unset again by its base class.
    response = error.response
    if response.status_code not in RETRIED or _is_of(response.request, but_not):
        return None
    asked = seconds_to_wait(response)
    return asked if asked <= LONGEST_WAIT else None


def _is_of(request: "httpx2.Request", paths: Sequence[str]) -> bool:
    return any(part in request.url.path for part in paths)


@contextmanager
def hub_sentences(doing: str, repo: str) -> Iterator[None]:
    """Turn all that the client raises into one HubError.

    Args:
        doing: What is tried, before the repo's name: "create", "look at", "upload to".
        repo: The repo, or another thing that the sentence is about; may be empty.
    """
    # All six families; asyncio's and the interpreter's own are not ours to answer.
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    known = (HfHubHTTPError, httpx2.HTTPError, OSError, RuntimeError, ValueError, KeyError)
    try:
        yield
    except TunerError:
        raise
    except (*known, TypeError, AttributeError) as error:
        inner = told_by_us(error)
        if inner:
            raise HubError(inner.problems) from None
        why, remedy = reason(error)
        raise HubError(f"Could not {f'{doing} {repo}'.strip()}: {why}. {remedy}.") from None


def _set_timeouts(answer_seconds: float) -> None:
    global _answer_seconds  # the client is one for the process: its timeouts are, too  # noqa: PLW0603
    if answer_seconds == _answer_seconds:
        return
    from huggingface_hub import set_client_factory

    set_client_factory(lambda: new_client(answer_seconds))
    _answer_seconds = answer_seconds


def new_client(answer_seconds: float) -> Any:
    """The library's own HTTP client, with timeouts for every request.

    Some of its calls (model_info) ask for none on purpose, so a default does not do: what is
    missing is filled in as the request leaves.
    """
    from huggingface_hub.utils._http import default_client_factory

    limits = dict.fromkeys(("read", "write", "pool"), answer_seconds)
    limits["connect"] = min(CONNECT_SECONDS, answer_seconds)

    def limit(request: "httpx2.Request") -> None:
        asked = request.extensions.get("timeout") or {}
        given = {name: seconds for name, seconds in asked.items() if seconds is not None}
        request.extensions = {**request.extensions, "timeout": {**limits, **given}}

    client = default_client_factory()
    hooks = client.event_hooks
    client.event_hooks = {**hooks, "request": [*hooks["request"], limit]}
    return client


def xet_is_wanted() -> bool:
    """Whether the person asked for uploads by Xet, with HF_HUB_DISABLE_XET=0."""
    return os.environ.get("HF_HUB_DISABLE_XET", "1").strip().lower() in (
        "0",
        "false",
        "no",
        "off",
        "",
    )
