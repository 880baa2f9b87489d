"""
What a Space's hardware costs, as far as can be known before it is rented.

    price_of("t4-small", api)

The Hub lists its hardware with prices; where it does not answer, a table of ours does, which says
of when it is. A flavor that neither knows has no price here, and that is said, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuner.errors import HubError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FREE, ZERO_GPU = "cpu-basic", "zero-a10g"
# Dollars an hour, https://huggingface.co/docs/hub/spaces-gpus
LISTED = {
    FREE: 0.0,
    ZERO_GPU: 0.0,
    "cpu-upgrade": 0.03,
    "t4-small": 0.40,
    "t4-medium": 0.60,
    "l4x1": 0.80,
    "a10g-small": 1.00,
    "a10g-large": 1.50,
    "l40sx1": 1.80,
    "a100-large": 2.50,
}
LISTED_ON = "2026-11-23"
PER_HOUR = {"second": 3600, "minute": 60, "hour": 1}
HOURS_A_MONTH = 730


@dataclass(frozen=True)
class Price:
    """What an hour costs while the Space is awake.

    Attributes:
        dollars: None where nobody says.
        source: Who says so, as the end of a sentence.
    """

    hardware: str
    dollars: float | None
    source: str


def price_of(hardware: str, api: "HfApi") -> Price:
    """The price of one hour.

    Raises:
        HubError: The Hub has no such hardware, and says which it has.
    """
    listed = _asked(api)
    if listed is None:
        dollars = LISTED.get(hardware)
        known = f"as listed on {LISTED_ON}; the Hub did not tell today's price"
        return Price(hardware, dollars, known if dollars is not None else "the Hub did not tell")
    if hardware in listed:
        return Price(hardware, listed[hardware], "as the Hub lists it now")
    if hardware == ZERO_GPU:  # no hardware of its own: it is lent for each call
        return Price(hardware, 0.0, f"as described on {LISTED_ON}")
    raise HubError(
        f"hardware={hardware[:40]} is none that the Hub has for Spaces. It has: "
        f"{', '.join(sorted(listed))}, and {ZERO_GPU}."
    )


def cost_sentences(price: Price, sleep_minutes: int | None) -> list[str]:
    """What a Space will cost, for somebody who is about to make it.

    >>> price = Price("t4-small", 0.4, "as the Hub lists it now")
    >>> print(*cost_sentences(price, None), sep="\\n")
    t4-small costs $0.40 an hour while the Space is awake, as the Hub lists it now.
    It never sleeps: about $292 a month, used or not.
    """
    if price.hardware == ZERO_GPU:
        return [
            "ZeroGPU costs nothing: a GPU is lent for each answer of the playground, within every "
            "visitor's daily quota. Training is not possible there."
        ]
    if price.dollars is None:
        return [f"What {price.hardware} costs is not known here: {price.source}."]
    if not price.dollars:
        return [
            f"{price.hardware} costs nothing by the hour, but the Hub makes such a Space for "
            "accounts with a paid plan only (PRO, Team or Enterprise)."
        ]
    hour = f"${price.dollars:,.2f} an hour while the Space is awake"
    return [f"{price.hardware} costs {hour}, {price.source}.", _sleep(price, sleep_minutes)]


def _sleep(price: Price, minutes: int | None) -> str:
    assert price.dollars is not None
    if minutes is None:
        return f"It never sleeps: about ${price.dollars * HOURS_A_MONTH:,.0f} a month, used or not."
    cost = price.dollars * minutes / 60
    return (
        f"It sleeps after {minutes:,} minutes without a visitor (at most ${cost:,.2f} of waiting "
        "each time), and costs nothing then. A run that nobody watches for so long is stopped, "
        "with its adapter and a checkpoint."
    )


def _asked(api: "HfApi") -> dict[str, float | None] | None:
    """Flavor → dollars an hour, as the Hub lists them; None where it does not."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    try:
        rows: Sequence[object] = api.list_spaces_hardware()
        found = {str(getattr(row, "name", "")): _dollars_an_hour(row) for row in rows}
    except (HfHubHTTPError, httpx2.HTTPError, OSError, ValueError, KeyError, TypeError):
        return None  # a price is worth asking for, and nothing to fail for
    return found or None


def _dollars_an_hour(row: object) -> float | None:
    times = PER_HOUR.get(str(getattr(row, "unit_label", "")).removeprefix("per ").strip())
    cost = getattr(row, "unit_cost_usd", None)
    if times is None or not isinstance(cost, int | float):
        return None
    return round(cost * times, 4)
