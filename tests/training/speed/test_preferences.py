"""Levers that DPO and KTO get: the step is trl's, the reference's forward included."""

import pytest

from tests.training.speed.tiny_trainers import differences, levers_with, our_step, row, tiny
from tuner.levers import LEVERS

LENGTHS = [(9, 5, 12), (40, 33, 3), (17, 64, 31), (5, 1, 8)]


def ids(length: int, seed: int) -> list[int]:
    return row(length, 1, seed)["input_ids"]


PAIRS = [
    {"prompt_ids": ids(p, 0), "chosen_ids": ids(c, 1), "rejected_ids": ids(r, 2)}
    for p, c, r in LENGTHS
]
RATED = [
    {"prompt_ids": ids(p, 0), "completion_ids": ids(c, 1), "label": bool(n % 2)}
    for n, (p, c, _) in enumerate(LENGTHS)
]


@pytest.mark.parametrize(("objective", "rows"), [("dpo", PAIRS), ("kto", RATED)])
@pytest.mark.parametrize("lever", ["auto", *LEVERS])
def test_a_step_on_preferences_is_the_step_without_levers(tmp_path, objective, rows, lever):
    levers = lever if lever == "auto" else sorted(levers_with(lever, tiny()).on)
    theirs, ours = (
        our_step(tiny(), rows, tmp_path, objective=objective, levers=chosen)
        for chosen in ("none", levers)
    )
    assert max(differences(ours, theirs)) < 1e-5
