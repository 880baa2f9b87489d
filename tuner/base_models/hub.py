"""
Ask the Hub about one model: its page, its config.json and the headers of its weights.

huggingface_hub is imported inside the functions: it takes half a second, and most people who open
the page ask it nothing. Its API calls have no timeout of their own, so each gets one.
Not covered: downloading weights; that is transformers', in the training process.
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
    from huggingface_hub.hf_api import ModelInfo

TIMEOUT = 10.0  # seconds that the Hub may take to answer
HUB = "https://huggingface.co"


class Unreachable(Exception):
    """Nobody answered; the message says why, as the end of a sentence."""


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
        Unreachable: No connection, or HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise Unreachable("HF_HUB_OFFLINE is set")
    with _failures_as_sentences(name, revision, suggestions):
        return _ask(name, revision, token)


def cached_folder(name: str, revision: str | None) -> Path | None:
    """Where an earlier download left a model with its weights on this machine."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, CONFIG, revision=revision)
    except HFValidationError:
        return None
    folder = Path(found).parent if isinstance(found, str) else None
    # Looking a model up leaves its config.json in the cache, without weights.
    return folder if folder and any(folder.glob("*.safetensors")) else None


def _ask(name: str, revision: str | None, token: str | None) -> HubModel:
    from huggingface_hub import HfApi, hf_hub_download

    api = HfApi(token=token)
    info = api.model_info(name, revision=revision, timeout=TIMEOUT)
    files = [sibling.rfilename for sibling in info.siblings or []]
    shards = weight_files(files, name)
    if CONFIG not in files:
        raise ModelError(f"{name} has no config.json on the Hub. Choose a transformers model.")
    path = hf_hub_download(name, CONFIG, revision=info.sha, token=token, etag_timeout=TIMEOUT)
    config = parse_config(Path(path).read_text(encoding="utf-8", errors="replace"), name)
    require_causal_lm(config, name)
    return HubModel(
        commit=info.sha,
        config=config,
        tensors=_tensors(api, name, info.sha, shards),
        card=info.card_data.to_dict() if info.card_data else {},
        gated=bool(info.gated),
        has_chat_template=_has_chat_template(info, files),
    )


def _tensors(api: "HfApi", name: str, commit: str | None, files: list[str]) -> dict[str, Tensor]:
    """Tensors of all shards, from the first bytes of each."""

    def header(file: str) -> dict[str, Tensor]:
        found = api.parse_safetensors_file_metadata(name, file, revision=commit, timeout=TIMEOUT)
        return parse_header(
            {key: {"dtype": t.dtype, "shape": t.shape} for key, t in found.tensors.items()}
        )

    with ThreadPoolExecutor(max_workers=8) as workers:
        shards = list(workers.map(header, files))
    return {key: tensor for shard in shards for key, tensor in shard.items()}


def _has_chat_template(info: "ModelInfo", files: list[str]) -> bool:
    config = info.config or {}
    in_tokenizer = (config.get("tokenizer_config") or {}).get("chat_template")
    return "chat_template.jinja" in files or bool(in_tokenizer or config.get("chat_template_jinja"))


@contextmanager
def _failures_as_sentences(
    name: str, revision: str | None, suggestions: Sequence[str]
) -> Iterator[None]:
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except ModelError:
        raise
    except (httpx2.TransportError, errors.LocalEntryNotFoundError) as error:
        raise Unreachable(f"the Hub cannot be reached ({type(error).__name__})") from error
    except errors.GatedRepoError:
        raise ModelError(
            f"{name} is gated: its authors want their licence accepted first. Open {HUB}/{name}, "
            "accept it, then sign in here with that account (or set HF_TOKEN)."
        ) from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise ModelError(
            f"There is no model {name} on the Hub that this account can see, nor a folder of that "
            f"name here. {_hint(name, suggestions)}"
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelError(f"{name} has no revision {revision}. Leave revision out for main.") from None
    except (errors.SafetensorsParsingError, errors.NotASafetensorsRepoError):
        raise ModelError(f"The weights of {name} on the Hub are damaged. Choose another.") from None
    except (errors.HfHubHTTPError, OSError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"{name} cannot be looked up on the Hub: {_answer(error)}. Try again."
        ) from error


def _hint(name: str, suggestions: Sequence[str]) -> str:
    """The nearest suggestion, by its whole id or by the part after the owner."""
    short = {model.rpartition("/")[2].lower(): model for model in suggestions}
    near = difflib.get_close_matches(name, suggestions, n=1)
    if not near:
        ends = difflib.get_close_matches(name.rpartition("/")[2].lower(), short, n=1)
        near = [short[end] for end in ends]
    return f"Did you mean {near[0]}?" if near else "Check its name, or choose starter."


def _answer(error: Exception) -> str:
    """A status code or a kind of error: a response's text could hold anything."""
    response = getattr(error, "response", None)
    if response is None:
        return type(error).__name__
    return f"it answered {response.status_code}"
