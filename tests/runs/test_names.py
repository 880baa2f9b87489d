"""Names that people type, and names that somebody types to get out of the folder."""

import pytest

from tuner.errors import RunError
from tuner.recipe import make_recipe
from tuner.runs import names


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("support bot", "support-bot"),
        ("  Größe & Maß!  ", "größe-maß"),
        ("客服 二", "客服-二"),
        (".hidden", "hidden"),
        ("-rf", "rf"),
        ("a_b", "a-b"),
        ("bot\u202etxt", "bot-txt"),
        ("$(reboot)", "reboot"),
        ("x" * 60, "x" * 60),
    ],
)
def test_a_name_becomes_the_last_part_of_an_id(name, part):
    assert names.slug(name) == part
    assert names.RUN_ID.fullmatch(f"20261123-0915-{part}")


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "..",
        "a/b",
        "/etc/passwd",
        "a\\b",
        "C:\\x",
        "",
        "   ",
        "\n",
        "a\nb",
        "a\x00b",
        "a\x1b[2J",
        "x" * 61,
        "!!!",
        ".",
        "-",
        "half \udc80",
    ],
)
def test_a_name_that_cannot_be_used_is_refused_in_one_printable_line(name):
    with pytest.raises(RunError) as caught:
        names.slug(name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["ß" * 60, "客" * 60, "\ufdfa" * 60, "𠀀" * 60])
def test_a_long_name_of_any_script_fits_a_folder_name(name):
    assert len(names.run_id(0, names.slug(name)).encode()) + len("-999") <= 255


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"preset": "legal", "dataset": {"source": "x.csv"}}, "legal"),
        ({"dataset": {"source": "/home/me/My Tickets.csv"}}, "my-tickets"),
        ({"dataset": {"source": "HuggingFaceH4/no_robots"}}, "no-robots"),
        ({"dataset": {"source": "../"}}, "run"),
        ({}, "run"),
    ],
)
def test_a_run_without_a_name_is_called_after_its_preset_or_data(values, part):
    assert names.default_slug(make_recipe(values)) == part
