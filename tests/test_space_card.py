"""
The settings at the top of README.md, by which the Hub makes a Space of this repository.

https://huggingface.co/docs/hub/spaces-config-reference
"""

import re
import tomllib
from pathlib import Path

import pytest
from huggingface_hub import SpaceHardware

from tuner.hub.space_files import front_matter
from tuner.presets import load_preset

REPOSITORY = Path(__file__).parents[1]
SETTINGS, BODY = front_matter((REPOSITORY / "README.md").read_text(encoding="utf-8"))
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
KNOWN = {
    *("title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version"),
    *("app_file", "short_description", "thumbnail", "suggested_hardware", "models", "tags"),
    *("startup_duration_timeout", "hf_oauth", "hf_oauth_scopes", "hf_oauth_expiration_minutes"),
    *("license", "pinned"),
}
LONGEST_SHORT_DESCRIPTION = 60


def pinned(package: str) -> str:
    requirements = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{package}(?:\[\w+\])?==([\d.]+)$", requirements, re.MULTILINE)
    assert found, f"{package} is not pinned."
    return found[1]


def test_every_setting_is_there_and_none_is_misspelt():
    assert set(SETTINGS) == KNOWN


def test_a_space_installs_the_gradio_that_the_tests_passed_with():
    assert (SETTINGS["sdk"], SETTINGS["sdk_version"]) == ("gradio", pinned("gradio"))


def test_a_space_runs_a_python_that_the_project_supports():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lowest = project["requires-python"].removeprefix(">=")
    # Text: as a number, 3.10 would be 3.1.
    assert isinstance(SETTINGS["python_version"], str)
    assert parts(SETTINGS["python_version"]) >= parts(lowest)


def parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@pytest.mark.parametrize("name", ["app_file", "thumbnail"])
def test_a_file_that_is_named_is_there(name):
    assert (REPOSITORY / str(SETTINGS[name])).is_file()


def test_what_the_hub_takes_from_a_list_is_in_it():
    assert {SETTINGS["colorFrom"], SETTINGS["colorTo"]} <= COLOURS
    assert SETTINGS["suggested_hardware"] in {flavor.value for flavor in SpaceHardware}
    assert len(str(SETTINGS["short_description"])) <= LONGEST_SHORT_DESCRIPTION
    assert re.fullmatch(r"\d+[mh]", str(SETTINGS["startup_duration_timeout"]))


def test_who_signs_in_gives_the_least_that_a_push_needs():
    # contribute-repos creates repos and touches those alone that it created. write-repos and
    # manage-repos reach everything of a person, read-repos their private models and data.
    assert SETTINGS["hf_oauth"] is True
    assert SETTINGS["hf_oauth_scopes"] == ["contribute-repos"]
    minutes = SETTINGS["hf_oauth_expiration_minutes"]
    assert isinstance(minutes, int) and 60 <= minutes <= 43_200


def test_the_models_are_those_that_the_first_preset_suggests():
    tiers = load_preset("chatbot").about.hardware.values()
    suggested = {tier.settings.get("base_model") for tier in tiers}
    assert set(SETTINGS["models"]) == suggested - {"starter", None}  # type: ignore[call-overload]
