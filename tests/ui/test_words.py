"""The engine's sentences in the page's terms."""

import pytest

from tuner.ui.words import page_words


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("Add --map answer=reply", "Add answer ← reply"),
        ('Say which: --map "prompt=the text", or', "Say which: prompt ← the text, or"),
        (
            "Say which is what, for example --map prompt=q --map answer=a",
            "Say which is what, for example prompt ← q, answer ← a",
        ),
        (
            "Repair it, or leave bad rows out with --skip-bad-rows (dataset.skip_bad_rows).",
            "Repair it, or leave bad rows out with “Leave unreadable rows out”.",
        ),
        (
            "It left no checkpoint. Start again: `python -m tuner train --recipe /r/recipe.yaml`.",
            "It left no checkpoint. Start again with changes begins a new one.",
        ),
        ("learning_rate=7 cannot be used.", "learning_rate=7 cannot be used."),
    ],
)
def test_options_of_the_shell_become_controls_of_the_page(sentence, words):
    assert page_words(sentence) == words
