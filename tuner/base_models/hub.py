"""
Ask the Hub about one model: its page, its config.json and the headers of its weights.

huggingface_hub is imported inside the functions: it takes half a second, and most people who open
the page ask it nothing. Its API calls have no timeout of their own, so each gets one. Nothing that
is looked up is kept: a model is in the cache only once it was downloaded to be loaded.
Not covered: downloading weights; see download.py.
"""

import difflib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.base_models.checkpoint import (
    CONFIG,
    Tensor,
    parse_config,
    parse_header,
    require_causal_lm,
    weight_files,
)
from tuner.errors import ModelError

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import ModelInfo

TIMEOUT = 10.0  # seconds that the Hub may take to answer
HUB = "https://huggingface.co"


class Unreachable(Exception):
    """Nobody answered, or only to say that nothing will be answered now.

    Args:
        why: The end of a sentence.
        remedy: The beginning of the next.
    """

    def __init__(self, why: str, remedy: str):
        super().__init__(why)
        self.remedy = remedy


@dataclass(frozen=True)
class HubModel:
    """What the Hub says of a model.

    Args:
        commit: The revision that all of this was read from.
        card: The YAML block of the model's page.
    """

    commit: str | None
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    card: dict[str, Any]
    gated: bool
    has_chat_template: bool


def look_up(
    name: str, revision: str | None, token: str | None, suggestions: Sequence[str]
) -> HubModel:
    """Ask the Hub.

    Args:
        suggestions: Names, one of which may have been meant if `name` does not exist.

    Raises:
        ModelError: The model is missing, gated, or cannot be fine-tuned.
        Unreachable: No connection, a Hub out of order, or HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise Unreachable("the Hub is not asked, as HF_HUB_OFFLINE is set", "Unset it")
    with failures_as_sentences(name, revision, suggestions):
        return _ask(name, revision, token)


def cached_folder(name: str, revision: str | None) -> Path | None:
    """Where an earlier download left a model with its weights on this machine.

    Args:
        revision: None for main, or else for what was downloaded last: a run loads the commit that
            main stood for, and the cache is not told that it did.
    """
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, CONFIG, revision=revision)
    except HFValidationError:
        return None
    folders = [Path(found).parent] if isinstance(found, str) else []
    if revision is None:
        repository = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
        snapshots = (repository / "snapshots").glob("*/")
        folders += sorted(snapshots, key=lambda path: path.stat().st_mtime, reverse=True)
    return next((folder for folder in folders if any(folder.glob("*.safetensors"))), None)


def _ask(name: str, revision: str | None, token: str | None) -> HubModel:
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    info = api.model_info(name, revision=revision, timeout=TIMEOUT)
    files = [sibling.rfilename for sibling in info.siblings or []]
    shards = weight_files(files, name)
    if CONFIG not in files:
        raise ModelError(f"{name} has no config.json on the Hub. Choose a transformers model.")
    config = parse_config(_config_text(name, info.sha, token), name)
    require_causal_lm(config, name)
    return HubModel(
        commit=info.sha,
        config=config,
        tensors=_tensors(api, name, info.sha, shards),
        card=info.card_data.to_dict() if info.card_data else {},
        gated=bool(info.gated),
        has_chat_template=_has_chat_template(info, files),
    )


def _config_text(name: str, commit: str | None, token: str | None) -> str:
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        hf_raise_for_status,
    )

    # Not by hf_hub_download: it asks a Hub that hangs again and again, for more than six minutes.
    url, headers = hf_hub_url(name, CONFIG, revision=commit), build_hf_headers(token=token)
    response = get_session().get(url, headers=headers, timeout=TIMEOUT)
    hf_raise_for_status(response)
    return response.content.decode("utf-8", errors="replace")


def _tensors(api: "HfApi", name: str, commit: str | None, files: list[str]) -> dict[str, Tensor]:
    """Tensors of all shards, from the first bytes of each."""
    from huggingface_hub.errors import HfHubHTTPError, SafetensorsParsingError

    def header(file: str) -> dict[str, Tensor]:
        try:
            found = api.parse_safetensors_file_metadata(
                name, file, revision=commit, timeout=TIMEOUT
            )
            return parse_header(
                {key: {"dtype": t.dtype, "shape": t.shape} for key, t in found.tensors.items()}
            )
        except HfHubHTTPError:  # one of its kinds is a ValueError
            raise
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise SafetensorsParsingError(f"{file}: {error}") from error

    with ThreadPoolExecutor(max_workers=8) as workers:
        shards = list(workers.map(header, files))
    return {key: tensor for shard in shards for key, tensor in shard.items()}


def _has_chat_template(info: "ModelInfo", files: list[str]) -> bool:
    config = info.config or {}
    in_tokenizer = (config.get("tokenizer_config") or {}).get("chat_template")
    return "chat_template.jinja" in files or bool(in_tokenizer or config.get("chat_template_jinja"))


@contextmanager
def failures_as_sentences(
    name: str, revision: str | None, suggestions: Sequence[str]
) -> Iterator[None]:
    """Turn what goes wrong in a question to the Hub into ModelError or Unreachable."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except ModelError:
        raise
    except httpx2.TransportError as error:
        why = f"the Hub cannot be reached ({type(error).__name__})"
        raise Unreachable(why, "Connect to the internet") from error
    except errors.HfHubHTTPError as error:
        raise refusal(error, name, revision, suggestions) from None
    except errors.HFValidationError:
        raise ModelError(_missing(name, suggestions)) from None
    except (errors.SafetensorsParsingError, errors.NotASafetensorsRepoError):
        raise ModelError(f"The weights of {name} on the Hub are damaged. Choose another.") from None
    except (httpx2.HTTPError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        # Foreign JSON, or none: another server than a Hub, or a card made to be unreadable.
        raise ModelError(
            f"{name} cannot be looked up on the Hub: its answer cannot be read "
            f"({type(error).__name__}). Try again, or choose another model."
        ) from error


def refusal(
    error: "HfHubHTTPError", name: str, revision: str | None, suggestions: Sequence[str]
) -> ModelError | Unreachable:
    """What an answer that is none means for the person who asked."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return ModelError(
            f"{name} is gated: its authors want their licence accepted first. Open {HUB}/{name}, "
            "accept it, then sign in here with that account (or set HF_TOKEN)."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelError(_missing(name, suggestions))
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(f"{name} has no revision {revision}. Leave revision out for main.")
    return _by_status(name, error.response.status_code)


def _by_status(name: str, status: int) -> ModelError | Unreachable:
    """What a status means where the Hub says no more; the response's text could hold anything."""
    if status >= 500:
        return Unreachable(f"the Hub is out of order ({status})", "Try again later")
    if status == 429:
        return Unreachable("the Hub asks to slow down (429)", "Try again in a few minutes")
    if status in (401, 403):
        return ModelError(
            f"The Hub does not let this account read {name} ({status}). Sign in again here, "
            "or set HF_TOKEN to a token that is valid and may read it."
        )
    return ModelError(f"{name} cannot be looked up: the Hub answered {status}. Try again later.")


def _missing(name: str, suggestions: Sequence[str]) -> str:
    return (
        f"There is no model {name} on the Hub that this account can see, nor a folder of that "
        f"name here. {_hint(name, suggestions)}"
    )


def _hint(name: str, suggestions: Sequence[str]) -> str:
    """The nearest suggestion, by its whole id or by the part after the owner."""
    suggestions = [model for model in suggestions if model != name]
    short = {model.rpartition("/")[2].lower(): model for model in suggestions}
    near = difflib.get_close_matches(name, suggestions, n=1)
    if not near:
        ends = difflib.get_close_matches(name.rpartition("/")[2].lower(), short, n=1)
        near = [short[end] for end in ends]
    return f"Did you mean {near[0]}?" if near else "Check its name, or choose starter."
