"""
A dataset of the Hub to rows, through `datasets` and its memory-mapped cache.

The revision is resolved to a commit first, so that a run can say exactly what it trained on. Every
failure of the Hub becomes one sentence. Without a connection, a dataset already in the cache is
used, and that is said. No code of a dataset is ever run (`datasets` 4 and later cannot).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tuner.data.arrow_rows import BATCH_ROWS, table_rows
from tuner.data.hub_files import only_files_of
from tuner.data.rows import RawRow, ReadLog, Source
from tuner.errors import DatasetError
from tuner.recipe import DatasetSettings

TIMEOUT = 15  # seconds; the client itself would wait forever
LONGEST_ID = 200  # the Hub's own limit is 96; more may be no path either
MEDIA = {"Image", "Audio", "Video", "Pdf", "Nifti", "Mesh"}  # columns that hold no text

_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_URL = re.compile(r"^(?:https?://huggingface\.co/datasets/|hf://datasets/)([\w.-]+/[\w.-]+)")


class HubInfo(NamedTuple):
    """What the Hub says of a dataset; None where it was not asked or does not say."""

    commit: str | None
    license: str | None


def hub_id(source: str) -> str | None:
    """The id in `namespace/name`, or in the address of its page; None for anything else.

    >>> hub_id("https://huggingface.co/datasets/openai/gsm8k/viewer")
    'openai/gsm8k'
    """
    if address := _URL.match(source):
        source = address[1]
    return source if len(source) <= LONGEST_ID and _ID.fullmatch(source) else None


def open_hub_dataset(
    dataset: DatasetSettings, *, cache_dir: Path | None = None, token: str | None = None
) -> Source:
    """Open, and if necessary download, one split.

    Raises:
        DatasetError: No such dataset, configuration, split or revision; gated; not reachable.
    """
    name = hub_id(dataset.source)
    if name is None:
        raise DatasetError(
            f"dataset.source={dataset.source} is not a Hub dataset id. Write namespace/name."
        )
    if Path(name).is_dir():  # which `datasets` would read instead
        raise DatasetError(
            f"dataset.kind=hub, but a folder {name} lies here. Set kind to file, or start Tuner in "
            "another folder."
        )
    try:
        info = _info(name, dataset.revision, token)
    except (OfflineModeIsEnabled, httpx2.TransportError) as error:
        return _cached_source(name, dataset, cache_dir, _why(error))
    rows = _downloaded(name, dataset, info.commit, cache_dir, token)
    return Source(
        _description(name, dataset),
        lambda log: _read(rows, name, log),
        license=info.license,
        revision=info.commit,
    )


def _info(name: str, revision: str | None, token: str | None) -> HubInfo:
    try:
        found = HfApi(token=token).dataset_info(name, revision=revision, timeout=TIMEOUT)
    except GatedRepoError:
        raise DatasetError(_gated(name)) from None
    except RevisionNotFoundError:
        raise DatasetError(
            f"{name} has no revision {revision}. Check dataset.revision, or leave it out."
        ) from None
    except RepositoryNotFoundError:
        raise DatasetError(_missing(name)) from None
    except HFValidationError as error:
        raise DatasetError(f"{name} is not a possible Hub id: {error}") from None
    except HfHubHTTPError as error:
        raise DatasetError(_refused(name, error.response.status_code)) from None
    card = found.card_data
    stated = card.license if card else None
    license = ", ".join(stated) if isinstance(stated, list) else stated
    return HubInfo(found.sha, license)


def _downloaded(
    name: str,
    dataset: DatasetSettings,
    commit: str | None,
    cache_dir: Path | None,
    token: str | None,
) -> Any:
    """The split, from the cache if this commit of it is there."""
    # Only here: importing datasets takes a second, and files do not need it.
    from datasets import config, load_dataset
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    config.HF_UPDATE_DOWNLOAD_COUNTS = False  # else it tells a host that is not the Hub
    try:
        with only_files_of(name):
            return load_dataset(
                name,
                name=dataset.config,
                split=dataset.split,
                revision=commit,
                token=token,
                cache_dir=str(cache_dir) if cache_dir else None,
            )
    except DatasetNotFoundError as error:
        raise DatasetError(_gated(name) if "gated" in str(error) else _missing(name)) from None
    except (ConnectionError, httpx2.TransportError):
        raise DatasetError(
            f"{name} cannot be downloaded: the connection to the Hub broke off. Try again."
        ) from None
    except HfHubHTTPError as error:
        raise DatasetError(_refused(name, error.response.status_code)) from None
    except (DatasetsError, ValueError, RuntimeError, OSError, ImportError) as error:
        raise DatasetError(_unusable(name, dataset, str(error))) from error


def _cached_source(name: str, dataset: DatasetSettings, cache_dir: Path | None, why: str) -> Source:
    """What was downloaded before. Asked directly, because load_dataset first retries for 23 s."""
    from datasets.packaged_modules.cache.cache import Cache

    try:
        found = Cache(
            repo_id=name,
            dataset_name=name.split("/")[1],
            config_name=dataset.config,
            cache_dir=str(cache_dir) if cache_dir else None,
            version="auto",
            hash="auto",
        )
    except ValueError:
        raise DatasetError(
            f"{name} cannot be downloaded: the Hub cannot be reached ({why}), and this machine has "
            "no copy. Connect to the internet, or give a local file as dataset.source."
        ) from None
    commit = str(found.hash)
    if dataset.revision not in (None, commit):
        # The cache holds the latest download: never instead of the one asked for.
        raise DatasetError(
            f"{name}: the Hub cannot be reached ({why}), and this machine's copy is revision "
            f"{commit}, not {dataset.revision}. Connect, or leave dataset.revision out."
        )
    try:
        rows = found.as_dataset(split=dataset.split)
    except (ValueError, OSError) as error:
        raise DatasetError(_unusable(name, dataset, str(error))) from error
    return Source(
        _description(name, dataset),
        lambda log: _read(rows, name, log),
        notes=[f"{name}: the Hub cannot be reached ({why}); this machine's copy is read."],
        revision=commit,
    )


def _read(rows: Any, name: str, log: ReadLog) -> Iterator[RawRow]:
    text = [column for column, kind in rows.features.items() if type(kind).__name__ not in MEDIA]
    tables = rows.select_columns(text).with_format("arrow").iter(batch_size=BATCH_ROWS)
    for number, values in enumerate(table_rows(tables), 1):
        yield RawRow(name, number, values)


def _description(name: str, dataset: DatasetSettings) -> str:
    config = f", configuration {dataset.config}" if dataset.config else ""
    return f"{name}{config}, split {dataset.split}"


def _gated(name: str) -> str:
    return (
        f"{name} is gated: its owner grants access one by one. Sign in, ask for access at "
        f"https://huggingface.co/datasets/{name}, and try again."
    )


def _missing(name: str) -> str:
    return (
        f"There is no dataset {name} on the Hub, or it is private. Check the spelling; "
        "for a private one, sign in with an account that may read it."
    )


def _refused(name: str, status: int) -> str:
    if status in (401, 403):
        return f"The Hub does not let this account read {name} ({status}). Sign in again."
    if status == 429:
        return f"The Hub asks to slow down ({name}, 429). Try again in a few minutes."
    return f"The Hub failed to answer for {name} ({status}). Try again later."


def _why(error: Exception) -> str:
    offline = isinstance(error, OfflineModeIsEnabled)
    return "offline mode is on, HF_HUB_OFFLINE" if offline else "no connection"


def _unusable(name: str, dataset: DatasetSettings, problem: str) -> str:
    """`datasets` lists the alternatives in its own words; they are kept."""
    choices = re.search(r"\[[^\]]*\]", problem)
    options = choices[0] if choices else ""
    if "onfig" in problem and choices:
        chosen = f" called {dataset.config}" if dataset.config else " chosen, and it has several"
        return f"{name} has no configuration{chosen}. Set dataset.config to one of {options}."
    if "split" in problem.lower() and choices:
        return f"{name} has no split {dataset.split}. Set dataset.split to one of {options}."
    first = " ".join(problem.split())[:200]
    return f"{name} cannot be read as a table: {first}"
