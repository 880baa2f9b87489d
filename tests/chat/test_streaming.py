"""Text as it is written: whole characters, no piece of a stop string, nothing lost."""

import random

import pytest

from tests.tiny_models import tiny_tokenizer
from tuner.chat.streaming import TextStream
from tuner.data.tokenizer import load_tokenizer
from tuner.starter import STARTER_DIR

TEXTS = [
    "Where is my order?\n\n  Indented,\ttabbed.  ",
    "Emoji 👩‍👩‍👧‍👦 and 🏳️‍🌈, flags 🇫🇷, skin 👍🏽",
    "漢字とかな交じり文。한국어 텍스트도.",
    "Zalgo: Z̸̡͎a̴͕͌l̵̲̊g̶̣̈o̷͕͝, العربية, नमस्ते",
    "A lone \ufffd in the text, and at its end \ufffd",
    "",
]


@pytest.fixture(params=["tiny", "starter"])
def tokenizer(request):
    return tiny_tokenizer() if request.param == "tiny" else load_tokenizer(str(STARTER_DIR))


def pieces(tokenizer, ids, stop=()) -> tuple[list[str], bool]:
    stream, found = TextStream(tokenizer, stop), []
    for token in ids:
        found.append(stream.push(token))
        if stream.stopped:
            return found, True
    return [*found, stream.finish()], stream.stopped


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters_and_add_up_to_the_whole_decoded(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]

    found, _ = pieces(tokenizer, ids)

    assert "".join(found) == tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in found)


def test_bytes_that_never_become_a_character_are_shown_at_the_end(tokenizer):
    ids = tokenizer("ok 👍", add_special_tokens=False)["input_ids"][:-1]

    found, _ = pieces(tokenizer, ids)

    assert "".join(found) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert not any("\ufffd" in piece for piece in found[:-1])


def test_random_tokens_add_up_to_the_whole_decoded_special_ones_left_out():
    tokenizer = tiny_tokenizer()
    for seed in range(50):
        ids = random.Random(seed).choices(range(len(tokenizer)), k=60)

        found, _ = pieces(tokenizer, ids)

        whole = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert "".join(found) == whole


@pytest.mark.parametrize(
    ("text", "stop", "shown"),
    [
        ("One.\n\n## End\nTwo.", ("\n## End",), "One.\n"),
        ("a###b", ("###", "##b"), "a"),
        ("aab", ("ab",), "a"),
        ("first, second, third", ("third", "second"), "first, "),
        ("なにか。以上。のこり", ("以上",), "なにか。"),
        ("so 👍🏽 stop", ("👍🏽",), "so "),
    ],
)
def test_a_stop_string_ends_the_answer_across_tokens_and_is_never_shown(
    tokenizer, text, stop, shown
):
    found, stopped = pieces(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"], stop)

    assert stopped
    assert "".join(found) == shown


def test_what_only_began_like_a_stop_string_is_shown(tokenizer):
    ids = tokenizer("a ## b #", add_special_tokens=False)["input_ids"]

    found, stopped = pieces(tokenizer, ids, ("###",))

    assert ("".join(found), stopped) == ("a ## b #", False)
