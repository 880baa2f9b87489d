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
        if self.any_path:
            return []
        found = []
        source, base = recipe.dataset.source, recipe.base_model
        named = local_path(source) if source and recipe.dataset.kind != "hub" else None
        if named and not self._is_ours(named):
            found.append(
                f"dataset.source={source} is a path of this machine, and this page is open to "
                "others. Upload the file instead."
            )
        folder = local_path(base) if base != STARTER else None
        if folder and not self._is_ours(folder):
            found.append(
                f"base_model={base} is a path of this machine, and this page is open to others. "
                "Choose the built-in model or a Hub id."
            )
        return found

    def _is_ours(self, path: Path) -> bool:
        real = path.expanduser().resolve()
        return any(real.is_relative_to(folder.resolve()) for folder in (self.runs_dir, PRESETS_DIR))
