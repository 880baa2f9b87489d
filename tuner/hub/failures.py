"""
What the client raises, as the end of a sentence: why it failed, and what to do about it.

The cause is looked for behind the exception: an upload that failed is a RuntimeError, and what
happened stands in its cause. Texts of the Hub are shown shortened, and only where they say more
than the status does; request headers and addresses never are.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tuner.errors import TunerError

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

TOKENS = "https://huggingface.co/settings/tokens"
LATER = "Try again later"
BAD_CARD = "Invalid metadata in README.md"  # how the client begins what the Hub found in it


def reason(error: BaseException) -> tuple[str, str]:
    """Why it failed, and what to do: the end of a sentence, and another."""
    import httpx2
    from huggingface_hub import errors

    kinds: tuple[tuple[type[BaseException], str, str], ...] = (
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set", "Unset it"),
        (httpx2.TimeoutException, "the Hub did not answer in time", LATER),
        (httpx2.ConnectError, "the Hub cannot be reached", "Connect to the internet"),
        (httpx2.TransportError, "the connection to the Hub broke off", "Try again"),
        (errors.LocalTokenNotFoundError, "there is no token", f"Make one at {TOKENS}"),
        (errors.HFValidationError, "the Hub takes no such name", "Write user/name"),
    )
    if isinstance(error, ValueError) and str(error).startswith(BAD_CARD):
        return _bad_card(str(error))
    for found in chain(error):
        if isinstance(found, errors.HfHubHTTPError):
            return _refused(found)
        for kind, why, remedy in kinds:
            if isinstance(found, kind):
                return why, remedy
    return _other(error)


def seconds_to_wait(response: "httpx2.Response") -> float:
    """How long the Hub asks to be left alone; 0 where it does not say."""
    from huggingface_hub.utils._http import parse_ratelimit_headers

    limit = parse_ratelimit_headers(response.headers)
    if response.status_code == 429 and limit and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    asked = response.headers.get("Retry-After", "").strip()
    return float(asked) if asked.isdigit() else 0.0


def _other(error: BaseException) -> tuple[str, str]:
    """What has no answer of the Hub in it."""
    if isinstance(error, ConnectionError) and not error.errno:
        # hf_xet's own: it tells a refusal and a lost connection apart in its text alone.
        status = re.search(r"\b(4\d\d|5\d\d)\b", str(error))
        why = f" ({status[1]})" if status else ""
        return (
            f"the Hub's storage did not take the files{why}",
            "Set HF_HUB_DISABLE_XET=1, and try again",
        )
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror.lower()} on this machine", "Free the disk, or change the rights"
    text = " ".join(str(error).split())
    if "LFS batch API returned errors" in text:
        told = "; ".join(re.findall(r"`([^`]*)", text)) or "it gave no reason"
        return (
            f"the Hub's storage takes no file: {_short(told)}",
            "Make room there, or ask its owner",
        )
    return (
        f"the Hub's answer cannot be read ({type(error).__name__})",
        "Check HF_ENDPOINT, or try again later",
    )


def _bad_card(text: str) -> tuple[str, str]:
    told = _short(text.removeprefix(BAD_CARD).strip(" .\n-"))
    return f"the card's metadata is not valid: {told}", "Correct the block at its top"


def _refused(error: "HfHubHTTPError") -> tuple[str, str]:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "its owner grants access one by one", "Ask for access on its page"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repo that this account can see", "Check the name, or sign in"
    if isinstance(error, errors.RevisionNotFoundError):
        return "there is no such revision", "Check its name"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return "a file is missing in it", "Look at its page"
    return _by_status(error)


def _by_status(error: "HfHubHTTPError") -> tuple[str, str]:
    status = error.response.status_code
    said = (
        f" ({status}: {_short(error.server_message)})" if error.server_message else f" ({status})"
    )
    if status == 401:
        return "the Hub does not know this token (401)", f"Make a new one at {TOKENS}"
    if status == 429:
        return "the Hub asks to slow down (429)", _when(seconds_to_wait(error.response))
    if status in (408, *range(500, 600)):
        return f"the Hub is out of order ({status})", LATER
    remedies = {
        402: "It has to be paid for on the Hub first",
        403: "Use a token that may write there, and see whether its storage is full",
        409: "Somebody else is changing it: try again in a minute",
        412: "It was changed meanwhile: look at it, and try again",
        413: "It is too large for the Hub in one piece: push the adapter alone",
    }
    return f"the Hub refused it{said}", remedies.get(status, LATER)


def _when(seconds: float) -> str:
    """
    >>> _when(3600.0), _when(0.0)
    ('Try again in 60 minutes', 'Try again in a few minutes')
    """
    minutes = -(-int(seconds) // 60)
    return f"Try again in {minutes} minutes" if minutes > 1 else "Try again in a few minutes"


def _short(text: str) -> str:
    """The Hub's own words, as part of a sentence of ours."""
    text = " ".join(text.split()).rstrip(".")
    return text if len(text) <= 200 else text[:199] + "…"


def chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and what caused it: what a failed upload was is told by the cause only."""
    found: BaseException | None = error
    while found is not None:
        yield found
        hidden = None if found.__suppress_context__ else found.__context__
        found = found.__cause__ or hidden


def told_by_us(error: BaseException) -> TunerError | None:
    """Our own refusal inside the client's exception: a response hook raised it."""
    return next((found for found in chain(error) if isinstance(found, TunerError)), None)
