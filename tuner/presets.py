"""
The presets: complete recipes with prompts and sample data, one YAML file each in presets/.

A file holds recipe settings at its top level and, under `about`, what a person is told about them.
`about.hardware` lists what changes for real base models; its first tier, builtin, is the recipe as
it stands, so every preset runs with no internet. The settings of a tier are written as for `--set`.

    recipe = load_preset("chatbot").recipe("gpu-24gb")

Not covered: which tier fits this machine (memory/ estimates that from a recipe).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tuner.errors import RecipeError
from tuner.problems import nearest, sentences
from tuner.recipe import DatasetSettings, Recipe, make_recipe, read_yaml, with_settings

PRESETS_DIR = Path(__file__).parents[1] / "presets"
BUILTIN = "builtin"


class Told(BaseModel):
    """Words for a person: frozen, no unknown keys, no empty ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_min_length=1)


class SampleData(Told):
    """The rows that come with a preset."""

    rows: int = Field(description="Rows in the file.")
    licence: str = Field(description="SPDX id.")
    note: str | None = Field(None, description="Where the rows come from.")


class HubDataset(Told):
    """A dataset on the Hub that suits a preset, and how to read it.

    Attributes:
        columns: As in the recipe; empty where the columns are recognised by themselves.
        licence: SPDX id as the card has it, or "not stated". Asked again before a run.
    """

    id: str
    config: str | None = None
    split: str = "train"
    columns: dict[str, str | list[str]] = {}
    licence: str
    note: str | None = None

    @property
    def non_commercial(self) -> bool:
        """Whether the licence forbids commercial use.

        >>> HubDataset(id="a/b", licence="CC-BY-NC-4.0").non_commercial
        True
        """
        return "nc" in self.licence.lower().split("-")

    def settings(self) -> DatasetSettings:
        """The recipe's `dataset` section that reads it."""
        return DatasetSettings(
            source=self.id,
            kind="hub",
            config=self.config,
            split=self.split,
            columns=self.columns,
        )


class Tier(Told):
    """What a preset changes for one class of hardware.

    Attributes:
        needs: Hardware, download and permissions, one sentence.
        settings: Dotted recipe keys → values, as for `--set`; none for the recipe as it stands.
    """

    needs: str
    settings: dict[str, Any] = {}


class About(Told):
    """What the page says about a preset.

    Attributes:
        icon: One symbol.
        description: What it makes, one sentence.
        needs: What data it wants, one sentence.
        metric: Which evaluation fits, and why.
        notice: What a reader of the results must know, where that could harm someone.
        hardware: Name → tier, smallest first, builtin always among them.
    """

    title: str
    icon: str = Field(max_length=1)
    description: str
    needs: str
    metric: str
    notice: str | None = None
    sample_data: SampleData
    hub_datasets: list[HubDataset] = []
    hardware: dict[str, Tier]


@dataclass(frozen=True)
class Preset:
    """One preset.

    Attributes:
        values: Recipe settings as the file nests them; the builtin tier.
    """

    name: str
    about: About
    values: dict[str, Any]

    def values_for(self, hardware: str = BUILTIN) -> dict[str, Any]:
        """Nested recipe settings for one tier, to which `--set` can still be applied.

        Raises:
            RecipeError: No such tier, or a tier with a key that is not a setting.
        """
        tiers = list(self.about.hardware)
        if hardware not in tiers:
            raise RecipeError(_no_such("hardware tier", hardware, tiers))
        return with_settings(self.values, self.about.hardware[hardware].settings)

    def recipe(self, hardware: str = BUILTIN) -> Recipe:
        """The recipe for one tier.

        Raises:
            RecipeError: As `values_for`, or the settings contradict each other.
        """
        return make_recipe(self.values_for(hardware))


def preset_names() -> list[str]:
    """Names of all presets, in alphabetical order."""
    return sorted(path.stem for path in PRESETS_DIR.glob("*.yaml"))


def load_preset(name: str) -> Preset:
    """Read one preset. A name is one of `preset_names()`, never a path.

    Raises:
        RecipeError: No such preset, or a file that does not hold one.
    """
    names = preset_names()
    if name not in names:
        raise RecipeError(_no_such("preset", name, names))
    values = read_yaml(PRESETS_DIR / f"{name}.yaml")
    try:
        about = About.model_validate(values.pop("about", {}))
    except ValidationError as error:
        problems = sentences(error, list(About.model_fields))
        raise RecipeError([f"presets/{name}.yaml, about: {line}" for line in problems]) from None
    if BUILTIN not in about.hardware:
        raise RecipeError(f"presets/{name}.yaml has no tier about.hardware.{BUILTIN}. Add one.")
    return Preset(name, about, values)


def _no_such(what: str, name: str, names: list[str]) -> str:
    near = nearest(name, names)
    hint = f"Did you mean {near}?" if near else f"Choose one of {', '.join(names)}."
    return f"There is no {what} {name}. {hint}"
