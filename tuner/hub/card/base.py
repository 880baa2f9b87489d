"""
The base model as a card names it: its Hub id where there is one, and its licence.

    base = base_of(recipe)
    base.hub_id, base.revision, base.licence     # "Qwen/Qwen3-0.6B", "c1899de…", {"license": …}

A folder of this machine is named by its last name only, unless it is a copy that the Hub's cache
made, whose place says which model and commit it is.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuner.base_models.checkpoint import card_of
from tuner.base_models.hub import TIMEOUT
from tuner.base_models.lookup import STARTER
from tuner.errors import HubError
from tuner.hub.card.markdown import one_line
from tuner.hub.local_paths import last_name
from tuner.recipe import Recipe
from tuner.starter import STARTER_DIR

HUB = "https://huggingface.co"
HUB_ID = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?")
IN_CACHE = re.compile(r".*/models--([\w.-]+?)(?:--([\w.-]+))?/snapshots/([0-9a-f]{40})/?")
LICENCE_ID = re.compile(r"[a-z0-9][a-z0-9.+-]*")
LICENCE_KEYS = ("license", "license_name", "license_link")
NON_COMMERCIAL = re.compile(
    r"(?i)(?:^|[-_ ])nc(?:$|[-_ ./\d])|non[-_ ]?commercial|research[-_ ]only"
)


@dataclass(frozen=True)
class BaseFacts:
    """A base model, for people elsewhere.

    Attributes:
        name: Its Hub id, `starter`, or the last name of its folder.
        revision: Its commit on the Hub; None where it has none.
        licence: license, license_name and license_link, as far as its own card has them.
    """

    name: str
    hub_id: str | None = None
    revision: str | None = None
    licence: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_starter(self) -> bool:
        """Whether it is the practice model, which is part of Tuner and not on the Hub."""
        return self.name == STARTER

    @property
    def link(self) -> str | None:
        """Its page."""
        return f"{HUB}/{self.hub_id}" if self.hub_id else None


def base_of(recipe: Recipe, token: str | None = None, licence: bool = True) -> BaseFacts:
    """What a recipe trains on, without this machine's paths.

    Args:
        token: Of who asks the Hub for the licence; None asks as a stranger.
        licence: False asks nothing.
    """
    if recipe.base_model == STARTER:
        return BaseFacts(STARTER, licence=_licence(card_of(STARTER_DIR), None))
    folder = _folder(recipe)
    if folder is None:
        name, revision = recipe.base_model, recipe.revision
    elif found := IN_CACHE.fullmatch(str(folder)):
        name, revision = "/".join(filter(None, found.groups()[:2])), found[3]
    else:
        its_card = card_of(folder) if folder.is_dir() else {}
        return BaseFacts(last_name(str(folder)), licence=_licence(its_card, None))
    card = (_hub_card(name, revision, token) if licence else None) or {}
    return BaseFacts(name, name, revision, _licence(card, name))


def is_non_commercial(licence: str) -> bool:
    """Whether a licence's name says that it forbids commercial use.

    >>> [is_non_commercial(name) for name in ("cc-by-nc-4.0", "apache-2.0", "ncsa")]
    [True, False, False]
    """
    return NON_COMMERCIAL.search(licence) is not None


def licence_words(licence: Mapping[str, str]) -> str | None:
    """A licence's name as people know it; None where it is not known.

    >>> licence_words({"license": "other", "license_name": "qwen-research"})
    'qwen-research'
    """
    name = licence.get("license")
    return licence.get("license_name") or name if name == "other" else name


def _folder(recipe: Recipe) -> Path | None:
    """The folder that base_model means, whether or not it is still there; None for a Hub id."""
    name = recipe.base_model
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return path.absolute()
    except (OSError, RuntimeError):  # too long for a path, or ~nobody
        path = Path(name)
    # A run that has prepared its data knows the commit of a base that came from the Hub.
    was_folder = recipe.dataset.fingerprint is not None and recipe.revision is None
    return path if was_folder or not HUB_ID.fullmatch(name) else None


def _licence(card: Mapping[str, Any], hub_id: str | None) -> dict[str, str]:
    found = {key: one_line(told) for key in LICENCE_KEYS if (told := _told(card.get(key)))}
    if not found.get("license"):
        return {}
    if not LICENCE_ID.fullmatch(found["license"]):
        # The Hub takes ids of its own list only; another name goes where names go.
        named = found.get("license_name") or found["license"]
        found |= {"license": "other", "license_name": named}
    return _with_whole_link(found, hub_id)


def _told(value: Any) -> str:
    """A text, or the texts of a list: some models have several licences."""
    values = value if isinstance(value, list) else [value]
    return ", ".join(text for text in values if isinstance(text, str))


def _with_whole_link(found: dict[str, str], hub_id: str | None) -> dict[str, str]:
    """A link beside the base's card leads to nothing beside another's."""
    link = found.pop("license_link", "")
    if link.startswith(("https://", "http://")):
        return {**found, "license_link": link}
    if hub_id and link:
        return {**found, "license_link": f"{HUB}/{hub_id}/blob/main/{link.lstrip('./')}"}
    return found


def _hub_card(name: str, revision: str | None, token: str | None) -> Mapping[str, Any] | None:
    """The YAML block of a model's page; None where the Hub does not tell."""
    try:
        return _public_card(name, revision) if token is None else _asked(name, revision, token)
    except HubError:
        return None


@functools.lru_cache(maxsize=64)
def _public_card(name: str, revision: str | None) -> Mapping[str, Any]:
    """What anybody may read, asked once a process; a failure is not remembered."""
    return _asked(name, revision, None)


def _asked(name: str, revision: str | None, token: str | None) -> Mapping[str, Any]:
    from tuner.hub.api import hub_api, hub_sentences

    with hub_sentences("look at", name):
        info = hub_api(token).model_info(name, revision=revision, timeout=TIMEOUT)
        return info.card_data.to_dict() if info.card_data else {}
