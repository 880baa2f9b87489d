"""Panes, votes and colours of the playground as plain values."""

import json

import pytest

from tuner.chat.protocol import PieceMessage
from tuner.chat.voices import Sampling, Voice
from tuner.chat.votes import Tally
from tuner.errors import RecipeError
from tuner.ui.chat_view import (
    as_json,
    as_markdown,
    changed_html,
    figures_html,
    held_out_row,
    make_sampling,
    messages_of,
    rows_to_ask,
    shuffled,
    tally_html,
    with_turn,
    without_last_turn,
)

VOICES = (Voice("base"), Voice("bot", adapter="/a"))
TURN = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]


def piece(**changes):
    usual = PieceMessage(
        row=0, text="", done=True, reason="stop token", tokens=41, seconds=0.562,
        first_seconds=0.062, note="",
    )  # fmt: skip
    return {**usual, **changes}


def test_each_voice_is_asked_after_its_own_history():
    other = [TURN[0], {"role": "assistant", "content": "What?"}]
    rows = rows_to_ask(VOICES, [TURN, other], "And?", "Be brief.", Sampling(seed=3))
    assert [row.voice.name for row in rows] == ["base", "bot"]
    assert [row.messages[2]["content"] for row in rows] == ["Hello.", "What?"]
    for row in rows:
        assert row.messages[0] == {"role": "system", "content": "Be brief."}
        assert row.messages[-1] == {"role": "user", "content": "And?"}
        assert row.sampling.seed == 3


def test_without_a_system_prompt_none_is_sent():
    (row,) = rows_to_ask(VOICES[:1], [[]], "Hi", "  ", Sampling())
    assert row.messages == ({"role": "user", "content": "Hi"},)


def test_a_turn_put_on_is_taken_off_again():
    grown = with_turn(TURN, "And?", "Well.")
    assert without_last_turn(grown) == (TURN, "And?")
    assert without_last_turn([]) == ([], "")
    assert with_turn([], "Hi", "")[-1]["content"] == "…"


def test_a_panes_blocks_are_read_as_text():
    blocks = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert messages_of([{"role": "user", "content": blocks}]) == [{"role": "user", "content": "ab"}]
    assert messages_of(None) == []


def test_figures_count_speed_from_the_first_token_on():
    assert "41 tokens · 80 tokens/s · first after 62 ms" in figures_html(piece())
    assert "cut at the longest length" in figures_html(piece(reason="length"))
    assert "DoRA &lt;b&gt;" in figures_html(piece(note="DoRA <b>"))
    assert figures_html(piece(tokens=0)) == ""


def test_the_order_is_drawn_and_both_sides_come_up():
    drawn = {tuple(shuffled(VOICES, seed)) for seed in range(20)}
    assert drawn == {(0, 1), (1, 0)}


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (Tally(), "No votes yet"),
        (Tally(wins=60, losses=40), "That is clear."),
        (Tally(wins=5, losses=5), "no number of votes"),
        (Tally(wins=11, losses=9), "About 365 more votes"),
    ],
)
def test_votes_are_told_with_how_sure_they_are(count, words):
    assert words in tally_html(count, "bot")


def test_tokens_are_coloured_by_sign_and_size_and_their_text_is_escaped():
    html = changed_html(["<b>", "x", "y"], [3.0, -1.5, 0.0], "bot")
    assert "<b>" not in html and "&lt;b&gt;" in html
    first, second, third = html.split("</span>")[:3]
    assert "--tuner-accent) 45%" in first and "+3.00 nats" in first
    assert "--tuner-base) 22%" in second and "-1.50 nats" in second
    assert " 0%" in third


def test_a_held_out_row_is_one_question_and_its_answer(tmp_path):
    assert held_out_row(tmp_path) is None
    rows = [
        {"messages": [*TURN, *TURN]},
        {"messages": [{"role": "system", "content": "s"}, *TURN]},
        {"text": "prose"},
    ]
    (tmp_path / "eval.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert held_out_row(tmp_path, seed=1) == {"prompt": "Hi", "reference": "Hello."}


def test_a_conversation_is_saved_for_people_and_for_programs():
    names = ["base", "bot"]
    assert "## bot\n\n**user**: Hi\n\n**assistant**: Hello." in as_markdown(names, [TURN, TURN])
    saved = json.loads(as_json(names, [TURN, TURN], {"seed": 7}))
    assert saved["sampling"] == {"seed": 7}
    assert [voice["name"] for voice in saved["voices"]] == names
    assert saved["voices"][0]["messages"] == TURN


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": -0.1},
        {"temperature": None},
        {"top_p": 0},
        {"max_new_tokens": 100_000},
        {"seed": -1},
        {"min_p": float("nan")},
    ],
)
def test_a_number_that_cannot_be_drawn_with_is_a_sentence_with_its_range(given):
    (name,) = given
    with pytest.raises(RecipeError, match=rf"{name}=.* cannot be used: it must be .* to "):
        make_sampling(given)


def test_all_unusable_numbers_are_told_at_once():
    with pytest.raises(RecipeError) as refused:
        make_sampling({"temperature": -1, "top_k": -1, "seed": 3})
    assert len(refused.value.problems) == 2
