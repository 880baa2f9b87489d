"""
The options that say what to train, and the one Recipe they make.

    preset or recipe file  <  --base-model, --dataset, --map, --skip-bad-rows  <  --set

Every command that looks at a recipe (train, preview, estimate) takes the same ones.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from tuner.errors import RecipeError
from tuner.recipe import Recipe, make_recipe, parse_setting, read_yaml, with_settings

Hardware = Literal["builtin", "cpu", "gpu-16gb", "gpu-24gb"]

PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset", metavar="NAME", help="Begin with a preset: chatbot, code, medical or legal."
    ),
]
HardwareOption = Annotated[
    Hardware, typer.Option("--hardware", help="The machine that the preset should suit.")
]
RecipeFileOption = Annotated[
    Path | None,
    typer.Option("--recipe", metavar="FILE", help="Begin with a recipe file (YAML) instead."),
]
BaseModelOption = Annotated[
    str | None,
    typer.Option(
        "--base-model", metavar="MODEL", help="starter (built in), a Hub id or a local folder."
    ),
]
DatasetOption = Annotated[
    str | None,
    typer.Option("--dataset", metavar="DATA", help="A file, folder or zip, or a Hub dataset id."),
]
MapOption = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="ROLE=COLUMN[,COLUMN]",
        help="Say which column is the prompt, answer, system, text, chosen, rejected or label.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting by the recipe's own key."),
]
SkipBadRowsOption = Annotated[
    bool, typer.Option("--skip-bad-rows", help="Leave unreadable rows out and count them.")
]
RunsDirOption = Annotated[
    Path,
    typer.Option(
        "--runs-dir",
        metavar="FOLDER",
        envvar="TUNER_RUNS_DIR",
        help="The folder that holds the runs.",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, all else on stderr.")
]

# A column mapping, and how the source is read, belong to the data set they were written for.
OF_ONE_DATASET = ("columns", "kind", "config", "split", "revision", "fingerprint")

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class RecipeOptions:
    """The options as they were given; None and empty where they were not."""

    preset: str | None = None
    hardware: str = "builtin"
    recipe_file: Path | None = None
    base_model: str | None = None
    dataset: str | None = None
    columns: Sequence[str] = ()
    settings: Sequence[str] = ()
    skip_bad_rows: bool = False


def recipe_from_options(options: RecipeOptions, *, needs_data: bool = True) -> Recipe:
    """Make the recipe that the options describe.

    Args:
        needs_data: Refuse a recipe without data.

    Raises:
        RecipeError: Every option that cannot be used.
    """
    columns = _columns(options.columns)
    settings = dict(_parse_all(parse_setting, options.settings))
    values = with_settings(_with_named_options(_beginning(options), options, columns), settings)
    recipe = make_recipe(values)
    if needs_data and not recipe.dataset.source:
        raise RecipeError(
            "There is no data to train on. Give --dataset FILE, or begin with --preset chatbot, "
            "code, medical or legal."
        )
    return recipe


def parse_mapping(text: str) -> tuple[str, str]:
    """Split one `role=columns`. Several columns stay one text: a column may have a comma itself.

    >>> parse_mapping("prompt=QUESTION,CONTEXTS")
    ('prompt', 'QUESTION,CONTEXTS')
    """
    role, separator, columns = text.partition("=")
    if not separator or not role.strip() or not columns.strip():
        raise RecipeError(
            f"--map {text} is not role=column. Write for example --map answer=response."
        )
    return role.strip(), columns.strip()


def _columns(texts: Sequence[str]) -> dict[str, str]:
    """Role → columns; a role given twice has the columns of both."""
    columns: dict[str, str] = {}
    for role, names in _parse_all(parse_mapping, texts):
        columns[role] = f"{columns[role]},{names}" if role in columns else names
    return columns


def _beginning(options: RecipeOptions) -> dict[str, Any]:
    if options.preset and options.recipe_file:
        raise RecipeError("Both --preset and --recipe were given. Leave one of them out.")
    if options.preset:
        from tuner.presets import load_preset

        return load_preset(options.preset).values_for(options.hardware)
    values = read_yaml(options.recipe_file) if options.recipe_file else {}
    values.pop("about", None)  # a preset's own words, where its file is given as a recipe
    return values


def _with_named_options(
    values: dict[str, Any], options: RecipeOptions, columns: Mapping[str, str]
) -> dict[str, Any]:
    given = values.get("dataset") or {}
    dataset = dict(given) if isinstance(given, Mapping) else {"source": given}
    if options.dataset is not None:
        dataset = {key: value for key, value in dataset.items() if key not in OF_ONE_DATASET}
        dataset["source"] = _absolute(options.dataset)
    if columns:
        dataset["columns"] = {**(dataset.get("columns") or {}), **columns}
    if options.skip_bad_rows:
        dataset["skip_bad_rows"] = True
    values = {**values, "dataset": dataset}
    if options.base_model is not None:
        values |= {"base_model": _absolute(options.base_model), "revision": None}
    return values


def _absolute(name: str) -> str:
    """A path that is there, for whoever reads the recipe from another folder; else the name."""
    path = Path(name).expanduser()
    if name == "starter" or not path.exists():
        return name
    return str(path.absolute())


def _parse_all(parse: Callable[[str], Parsed], texts: Sequence[str]) -> list[Parsed]:
    parsed, problems = [], []
    for text in texts:
        try:
            parsed.append(parse(text))
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(problems)
    return parsed
