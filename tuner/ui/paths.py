"""
Paths that a recipe may name. On one's own machine any; a page that others can open must not read
its machine's files to them, so there only uploads, presets and the runs themselves.
"""

from dataclasses import dataclass
from pathlib import Path

from tuner.base_models.lookup import STARTER
from tuner.data.sources import local_path
from tuner.presets import PRESETS_DIR
from tuner.recipe import Recipe


@dataclass(frozen=True)
class Paths:
    """What recipes may name.

    Attributes:
        runs_dir: Whose uploads and runs are always among it.
        any_path: The page is one person's own, on their own machine.
    """

    runs_dir: Path
    any_path: bool = True

    def problems(self, recipe: Recipe) -> list[str]:
        """Why a recipe may not be used here, a sentence each."""
        source = recipe.dataset.source if recipe.dataset.kind != "hub" else ""
        base = recipe.base_model if recipe.base_model != STARTER else ""
        return [
            *self._refused("dataset.source", source, "Upload the file instead."),
            *self._refused("base_model", base, "Choose the built-in model or a Hub id."),
        ]

    def folder_problems(self, name: str) -> list[str]:
        """Why an adapter's folder may not be used here; none for the name of anything else."""
        return self._refused("The adapter", name, "Choose a run or a Hub id.")

    def _refused(self, what: str, name: str, remedy: str) -> list[str]:
        named = local_path(name) if name and not self.any_path else None
        if named is None or self._is_ours(named):
            return []
        sign = "=" if "." in what or "_" in what else " "
        told = f"{what}{sign}{name} is a path of this machine, and this page is open to others."
        return [f"{told} {remedy}"]

    def _is_ours(self, path: Path) -> bool:
        real = path.expanduser().resolve()
        return any(real.is_relative_to(folder.resolve()) for folder in (self.runs_dir, PRESETS_DIR))
