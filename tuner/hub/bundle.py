"""
What is published of a run beside its card: the files, put together in a folder of their own.

    write_bundle(run, folder, "anna/support-bot")
    bundle_files(run)            # the same, as names and bytes, before anything is written

adapter/ (or model/, of a full fine-tune), the recipe, the result, the curve and README.md. Nothing
else of a run leaves this machine: no rows, no log, no checkpoint. Weights are safetensors; pickles
and links stay. No text says where things lie on this machine: what names a folder of it is changed
to a name, and a file in which one is left is not published.
Not covered: merged weights (export/merged.py); sending it (push.py).
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tuner.errors import HubError
from tuner.hub.card import make_card
from tuner.hub.card.base import BaseFacts
from tuner.hub.card.facts import facts_of, kept_folder
from tuner.hub.card.training import CURVE, published_recipe
from tuner.hub.curve_image import curve_png, curves_of
from tuner.hub.local_paths import (
    clean_values,
    first_local_path,
    local_roots,
    long_roots,
    without_local_paths,
)
from tuner.recipe import to_yaml
from tuner.runs.events import current_history
from tuner.runs.redact import redact
from tuner.runs.run import Run

README, RECIPE, RESULT = "README.md", "recipe.yaml", "result.json"
WEIGHTS = ".safetensors"
# Settings, vocabularies and templates. What else lies there is not needed to load it.
TEXTS = (".json", ".jinja", ".txt")
OTHERS = (".model",)  # SentencePiece's vocabulary
ADAPTER_CONFIG = "adapter_config.json"
SETTINGS = (ADAPTER_CONFIG, "config.json", "generation_config.json")
# Settings, too, but words of a vocabulary stand in them.
TOKEN_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
LONGEST_HEADER = 100_000_000  # bytes, of a safetensors file; the format's own limit

Planned = list[tuple[str, int | None]]


def bundle_files(run: Run) -> Planned:
    """Names and bytes of what write_bundle writes; None for what is made only then.

    Raises:
        HubError: The run kept nothing.
    """
    kept = [(path.name, path.stat().st_size) for path in _kept_files(run)]
    made = [RECIPE, *([RESULT] if run.result_path.is_file() else [])]
    made += [CURVE] if curves_of(current_history(run.events()[0])) else []
    return [*kept, *((name, None) for name in (*made, README))]


def write_bundle(
    run: Run, folder: Path, repo: str, card: str | None = None, token: str | None = None
) -> None:
    """Write all that is published of a run into an empty folder.

    Its weights may be the run's own under a second name: they are to be read, not written to.

    Args:
        repo: Where it goes, for the card.
        card: README.md as somebody edited it; None writes it from the run.
        token: Of who publishes, to read the base's licence; kept nowhere.

    Raises:
        HubError: The run kept nothing, or a file tells where things lie on this machine.
        RecipeError: The run's recipe is gone or is none.
    """
    files, facts = _kept_files(run), facts_of(run, repo, licence=False)
    roots = local_roots(run, facts.recipe.base_model)
    for path in files:
        _copy(path, folder / path.name, facts.base, roots)
    _write_text(folder / RECIPE, to_yaml(published_recipe(facts)), roots)
    if result := run.result():
        _write_text(folder / RESULT, _json(clean_values(result, roots)), roots)
    if curve := curve_png(run):
        (folder / CURVE).write_bytes(curve)
    write_card(run, folder, make_card(run, repo, token=token) if card is None else card)
    require_no_local_path(folder, roots)


def write_card(run: Run, folder: Path, card: str) -> None:
    """Put the card, and the curve that it shows, into a folder that is published.

    Raises:
        HubError: The card names a folder of this machine.
    """
    (folder / README).write_bytes(card.encode("utf-8", errors="replace"))
    curve = curve_png(run) if CURVE in card else None
    if curve and not (folder / CURVE).exists():
        (folder / CURVE).write_bytes(curve)
    _require(README, card, local_roots(run))


def require_no_local_path(folder: Path, roots: Sequence[str]) -> None:
    """Look through every text, and what the weights say of themselves.

    Raises:
        HubError: One names a folder of this machine.
    """
    for path in sorted(folder.iterdir()):
        if path.suffix == WEIGHTS:
            _require(path.name, _header(path), roots)
        elif path.suffix in TEXTS:
            # In vocabularies and templates "/root" is a word; a longer path is none.
            known = roots if path.name in SETTINGS else long_roots(roots)
            _require(path.name, path.read_text(encoding="utf-8", errors="replace"), known)
        elif path.suffix in (".md", ".yaml"):
            _require(path.name, path.read_text(encoding="utf-8"), roots)


def _kept_files(run: Run) -> list[Path]:
    """Regular files of adapter/ or model/ that belong to what is loaded; sorted."""
    folder = kept_folder(run)
    files = sorted(_regular_files(folder)) if folder else []
    if not any(path.suffix == WEIGHTS for path in files):
        state = run.status()["state"]
        remedy = "Stop it, which keeps its weights, or wait" if state == "running" else "Train it"
        raise HubError(
            f"Run {run.id} is {state} and has kept no weights as safetensors, so there is nothing "
            f"to publish. {remedy} first."
        )
    return files


def _regular_files(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            is_wanted = entry.name.endswith((WEIGHTS, *TEXTS, *OTHERS))
            if is_wanted and entry.is_file(follow_symlinks=False) and entry.name[0] != ".":
                yield Path(entry.path)


def _copy(path: Path, to: Path, base: BaseFacts, roots: Sequence[str]) -> None:
    if path.name in (*SETTINGS, *TOKEN_SETTINGS):
        published = _published(path.name, _settings(path), base, roots)
        to.write_text(_json(published), encoding="utf-8")
    elif path.suffix == WEIGHTS:
        _link(path, to)
    else:
        shutil.copyfile(path, to, follow_symlinks=False)


def _settings(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise HubError(
            f"{path.parent.name}/{path.name} is no JSON, so what was kept is damaged. "
            "Train the run again."
        ) from None


def _published(name: str, settings: Any, base: BaseFacts, roots: Sequence[str]) -> Any:
    """Settings with the base's name in place of its folder, and its commit beside it."""
    if name == ADAPTER_CONFIG and isinstance(settings, dict):
        settings |= {"base_model_name_or_path": base.name, "revision": base.revision}
    elif isinstance(settings, dict):
        # Where transformers noted from where it loaded: of no use elsewhere.
        settings = {key: value for key, value in settings.items() if not _is_place(key, value)}
    return clean_values(settings, roots if name in SETTINGS else long_roots(roots))


def _is_place(key: str, value: Any) -> bool:
    named = key in ("_name_or_path", "name_or_path", "tokenizer_file", "vocab_file")
    return named and isinstance(value, str) and Path(value).is_absolute()


def _link(path: Path, to: Path) -> None:
    """A second name for the same bytes, which are only read; weights can be many gigabytes."""
    try:
        os.link(path, to, follow_symlinks=False)
    except OSError:  # on another disk, or one that knows no links
        shutil.copyfile(path, to, follow_symlinks=False)


def _write_text(path: Path, text: str, roots: Sequence[str]) -> None:
    path.write_text(redact(without_local_paths(text, roots)), encoding="utf-8")


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _header(path: Path) -> str:
    """The JSON at the beginning of a safetensors file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return file.read(min(length, LONGEST_HEADER)).decode("utf-8", errors="replace")


def _require(name: str, text: str, roots: Sequence[str]) -> None:
    if found := first_local_path(text, roots):
        raise HubError(
            f"{name} names {found}, a folder of this machine, which is nobody else's business. "
            "Take it out, and publish again."
        )
