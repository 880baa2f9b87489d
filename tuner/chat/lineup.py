"""
Who can answer: the base and the tuned voices of a run, a folder or a Hub id.

    lineup = lineup_of_run(store.get("support-bot"), steps=(40,))
    lineup = lineup_of_adapter("somebody/support-bot-lora")
    joined([lineup_of_run(run) for run in runs])

Only small files are read; nothing is loaded, and from the Hub only an adapter is downloaded:
its adapter_config.json and its safetensors, never a pickle.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tuner.base_models.hub import TIMEOUT, Unreachable, cached_folder, failures_as_sentences
from tuner.base_models.lookup import STARTER
from tuner.chat.voices import Base, Sampling, Voice
from tuner.errors import ModelError, RunError
from tuner.recipe import Recipe
from tuner.runs.names import slug_of
from tuner.runs.status import LIVE_STATES
from tuner.runs.store import Run, RunStore
from tuner.starter import STARTER_DIR

Quantization = Literal["nf4", "int8", "none"]

BASE = "base"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MODEL_CONFIG = "config.json"
NAMES_LISTED = 12


@dataclass(frozen=True)
class Lineup:
    """Voices that share a base.

    Attributes:
        voices: The base first.
        system_prompt: What it was trained with.
        prompts: Questions to begin with.
    """

    base: Base
    voices: tuple[Voice, ...]
    system_prompt: str | None = None
    prompts: tuple[str, ...] = ()


def find_lineup(
    name: str,
    store: RunStore,
    steps: Sequence[int] = (),
    quantization: Quantization | None = None,
    token: str | None = None,
) -> Lineup:
    """Who answers for a run's id or name, or else for a local adapter folder or a Hub id.

    Raises:
        RunError, ModelError: Nothing that could answer has this name.
    """
    try:
        run = store.get(name)
    except RunError:
        if "/" not in name and _folder(name) is None:
            raise
        if steps:
            raise RunError(f"{name} is no run, so it has no checkpoints to choose from.") from None
        return lineup_of_adapter(name, quantization=quantization, token=token)
    return lineup_of_run(run, steps, quantization)


def lineup_of_run(
    run: Run, steps: Sequence[int] = (), quantization: Quantization | None = None
) -> Lineup:
    """The base of a run, what the run kept, and the checkpoints that are asked for.

    Args:
        steps: Of checkpoints. Without any, and while nothing is kept yet, the last one answers.
        quantization: How to hold the base; None as in training.

    Raises:
        RunError: There is no such checkpoint, or the run has nothing yet that could answer.
    """
    recipe = run.recipe()
    kept, checkpoints = kept_voice(run), dict(checkpoint_voices(run))
    if missing := [step for step in steps if step not in checkpoints]:
        raise RunError(_no_checkpoint(run, missing, list(checkpoints)))
    tuned = ([kept] if kept else []) + [checkpoints[step] for step in dict.fromkeys(steps)]
    tuned = tuned or list(checkpoints.values())[-1:]
    if not tuned:
        state = run.status()["state"]
        waits = state in LIVE_STATES or state == "queued"
        remedy = "Wait for its first checkpoint, or t" if waits else "T"
        raise RunError(
            f"Run {run.id} is {state} and has no adapter and no checkpoint. {remedy}alk to its "
            "base alone (--base-only)."
        )
    return replace(base_lineup(recipe, quantization), voices=(Voice(BASE), *tuned))


def base_lineup(recipe: Recipe, quantization: Quantization | None = None) -> Lineup:
    """The base of a recipe alone, as it would be trained."""
    return Lineup(
        base_of_recipe(recipe, quantization),
        (Voice(BASE),),
        recipe.dataset.system_prompt,
        tuple(recipe.sample_prompts),
    )


def base_of_recipe(recipe: Recipe, quantization: Quantization | None = None) -> Base:
    """The base as a recipe trains on it, or held otherwise."""
    # Full fine-tuning has the precision of what is trained, which the base beside need not have.
    dtype = "auto" if recipe.adapter == "none" else recipe.dtype
    return Base(recipe.base_model, recipe.revision, quantization or recipe.quantization, dtype)


def kept_voice(run: Run) -> Voice | None:
    """What a run kept when it ended: adapter/, or model/ of a full fine-tune."""
    return _voice(_name(run), run.adapter_dir) or _voice(_name(run), run.model_dir)


def checkpoint_voices(run: Run) -> list[tuple[int, Voice]]:
    """A run's checkpoints by step."""
    found = [
        (step, _voice(f"{_name(run)} · step {step}", folder)) for step, folder in run.checkpoints()
    ]
    return [(step, voice) for step, voice in found if voice]


def lineup_of_adapter(
    name: str,
    revision: str | None = None,
    quantization: Quantization | None = None,
    token: str | None = None,
) -> Lineup:
    """A PEFT adapter in a folder or on the Hub, and the base that it names.

    Args:
        revision: Of the adapter on the Hub.
        quantization: How to hold the base; None in 16 bits.
        token: Of the person asking, for private adapters; None for the machine's own.

    Raises:
        ModelError: It is no adapter that can be loaded, or names no base that can be found.
    """
    found = _folder(name)
    if is_local := found is not None:
        folder, name = found, found.resolve().name
    else:
        folder = _download(name, revision, token)
    config = _adapter_config(folder, name)
    base = _base_of_adapter(config, name, is_local)
    base_revision = config.get("revision") if base != STARTER else None
    return Lineup(
        Base(base, base_revision, quantization or "none"),
        (Voice(BASE), Voice(name.rpartition("/")[2], adapter=str(folder.resolve()))),
    )


def joined(lineups: Sequence[Lineup]) -> Lineup:
    """Several lineups on one base as one. The first says how the base is held and what is asked.

    Raises:
        ModelError: They have different bases.

    >>> one = Lineup(Base("a/b", None, "nf4"), (Voice("base"), Voice("bot", "x")))
    >>> two = Lineup(Base("a/b", None, "none"), (Voice("base"), Voice("bot", "y")))
    >>> [voice.name for voice in joined([one, two]).voices]
    ['base', 'bot', 'bot (2)']
    """
    first = lineups[0]
    for other in lineups[1:]:
        if _identity(other.base) != _identity(first.base):
            raise ModelError(
                f"{other.voices[-1].name} is tuned from {_shown(other.base)}, and "
                f"{first.voices[-1].name} from {_shown(first.base)}. "
                "Voices answer side by side on one base only."
            )
    voices: list[Voice] = []
    for voice in dict.fromkeys(voice for lineup in lineups for voice in lineup.voices):
        namesakes = sum(known.name.partition(" (")[0] == voice.name for known in voices)
        name = f"{voice.name} ({namesakes + 1})" if namesakes else voice.name
        voices.append(replace(voice, name=name))
    return replace(first, voices=tuple(voices))


def default_sampling(base: Base) -> Sampling:
    """How the model's makers let it answer (its generation_config.json), where that is known.

    A model on the Hub is known from its first download on. One that names no temperature gets
    ours, and one that says do_sample: false is greedy.
    """
    config = _json(_base_folder(base) / "generation_config.json") or {}
    ours = Sampling()
    known = {
        name: type(getattr(ours, name))(value)
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        if isinstance(value := config.get(name), int | float)
    }
    if config.get("do_sample") is False:
        known["temperature"] = 0.0
    return replace(ours, **known)


def _base_folder(base: Base) -> Path:
    if base.model == STARTER:
        return STARTER_DIR
    if folder := _folder(base.model):
        return folder
    return cached_folder(base.model, base.revision) or Path("nowhere")


def _name(run: Run) -> str:
    """What a run's voice is called; never as the base is."""
    name = slug_of(run.id)
    return run.id if name == BASE else name


def _voice(name: str, folder: Path) -> Voice | None:
    """The voice in a folder, if it holds whole weights."""
    path = str(folder.resolve())
    if (folder / ADAPTER_CONFIG).is_file() and (folder / ADAPTER_WEIGHTS).is_file():
        return Voice(name, adapter=path)
    if (folder / MODEL_CONFIG).is_file() and any(folder.glob("*.safetensors")):
        return Voice(name, model=path)
    return None


def _no_checkpoint(run: Run, missing: list[int], steps: list[int]) -> str:
    wanted = " and ".join(f"step {step}" for step in missing)
    there = ", ".join(map(str, steps[-NAMES_LISTED:]))
    remedy = f"There are those of step {there}." if steps else "It has none."
    return f"Run {run.id} has no checkpoint of {wanted}. {remedy}"


def _identity(base: Base) -> tuple[str, str | None]:
    return base.model, base.revision


def _shown(base: Base) -> str:
    return f"{base.model} at {base.revision}" if base.revision else base.model


def _adapter_config(folder: Path, name: str) -> dict[str, Any]:
    config = _json(folder / ADAPTER_CONFIG)
    if config is None:
        raise ModelError(
            f"{name} has no readable {ADAPTER_CONFIG}, so it is no PEFT adapter. "
            "Choose a run, or a folder or Hub id of an adapter."
        )
    kind = str(config.get("peft_type", "")).upper()
    if kind != "LORA":
        raise ModelError(
            f"{name} is an adapter of type {kind or 'unknown'}. Only LoRA and DoRA can be loaded."
        )
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(
            f"{name} has no {ADAPTER_WEIGHTS}. Weights in other formats (adapter_model.bin is a "
            "pickle, which can run code) are not loaded: save it as safetensors."
        )
    return config


def _base_of_adapter(config: dict[str, Any], name: str, is_local: bool) -> str:
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base.strip():
        raise ModelError(f"{name} does not name its base model, so nothing can be loaded for it.")
    # Trained on the built-in model here, or in another checkout of Tuner.
    if Path(base).parts[-3:] == STARTER_DIR.parts[-3:]:
        return STARTER
    if _is_hub_id(base) or (is_local and _folder(base)):
        return base
    raise ModelError(
        f"{name} was tuned from {base}, a folder of the machine where it was trained that is not "
        "here. Without its base, an adapter cannot answer."
    )


def _folder(name: str) -> Path | None:
    try:
        folder = Path(name).expanduser()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long for a path, ~nobody, a NUL
        return None


def _is_hub_id(name: str) -> bool:
    return not name.startswith((".", "/", "~")) and name.count("/") <= 1 and "\\" not in name


def _download(name: str, revision: str | None, token: str | None) -> Path:
    """An adapter from the Hub, in the cache."""
    if not _is_hub_id(name):
        raise ModelError(f"There is no folder {name}. Give an adapter's folder, or its Hub id.")
    from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import LocalEntryNotFoundError

    files = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
    try:
        if constants.HF_HUB_OFFLINE:
            raise Unreachable("the Hub is not asked, as HF_HUB_OFFLINE is set", "Unset it")
        with failures_as_sentences(name, revision, ()):
            info = HfApi(token=token).model_info(name, revision=revision, timeout=TIMEOUT)
        there = {sibling.rfilename for sibling in info.siblings or []}
        with failures_as_sentences(name, revision, ()):
            found = [
                hf_hub_download(name, file, revision=info.sha, token=token, etag_timeout=TIMEOUT)
                for file in files
                if file in there
            ]
    except (Unreachable, LocalEntryNotFoundError) as error:
        cached = try_to_load_from_cache(name, ADAPTER_WEIGHTS, revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent
        why = error if isinstance(error, Unreachable) else "the Hub cannot be reached"
        remedy = error.remedy if isinstance(error, Unreachable) else "Connect to the internet"
        raise ModelError(f"{name} is not on this machine, and {why}. {remedy}.") from None
    return Path(found[0]).parent if found else Path(name)


def _json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
