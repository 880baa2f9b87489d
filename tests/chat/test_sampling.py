"""Drawing tokens: transformers' definitions in its order, and one seed for each row."""

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tuner.chat.sampling import Noise, TokenChoice, choose_tokens, penalized, warped
from tuner.chat.voices import Sampling

VOCABULARY = 3000
GREEDY = Sampling(temperature=0)


def random_logits(seed: int, rows: int = 1, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * spread


def transformers_scores(sampling: Sampling, ids: list[int], logits: torch.Tensor) -> torch.Tensor:
    steps = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    steps.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        steps.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        steps.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        steps.append(MinPLogitsWarper(sampling.min_p))
    return steps(torch.tensor([ids]), logits.clone())[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7},
        {"temperature": 1.3, "top_k": 40},
        {"temperature": 0.9, "top_p": 0.9},
        {"temperature": 5.0, "top_p": 0.99},  # flat: the nucleus is most of the vocabulary
        {"temperature": 1.0, "top_p": 0.001},
        {"temperature": 1.0, "min_p": 0.05},
        {"temperature": 1.0, "repetition_penalty": 1.3},
        {"temperature": 0.8, "top_k": 10_000, "top_p": 0.8},
        {
            "temperature": 0.7,
            "top_k": 50,
            "top_p": 0.9,
            "min_p": 0.02,
            "repetition_penalty": 1.2,
        },
    ],
    ids=str,
)
def test_logits_are_warped_as_transformers_does_it(settings):
    sampling = Sampling(**settings)
    for seed in range(10):
        logits, ids = random_logits(seed), [3, 5, 3, 2999]

        found = warped(penalized(logits[0], ids, sampling.repetition_penalty), sampling)

        torch.testing.assert_close(found, transformers_scores(sampling, ids, logits))


def test_drawn_tokens_are_as_frequent_as_they_are_likely():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    choice, noise = TokenChoice(Sampling(temperature=1.0), []), Noise()

    drawn = [choose_tokens([choice], logits, noise)[0] for _ in range(20_000)]

    shares = torch.bincount(torch.tensor(drawn), minlength=4) / len(drawn)
    torch.testing.assert_close(shares, logits[0].softmax(-1), atol=0.01, rtol=0)


def draw(samplings: list[Sampling], logits: torch.Tensor, steps: int = 20) -> list[list[int]]:
    choices, noise = [TokenChoice(sampling, []) for sampling in samplings], Noise()
    return [choose_tokens(choices, logits, noise) for _ in range(steps)]


def test_a_row_draws_the_same_whoever_else_is_in_the_batch():
    logits, sampling = random_logits(0, rows=3), Sampling(temperature=1.0, seed=5)
    others = [Sampling(temperature=2.0, seed=6, top_k=3), GREEDY]

    alone = draw([sampling], logits[:1])
    together = draw([sampling, *others], logits)

    assert [tokens[0] for tokens in together] == [tokens[0] for tokens in alone]


def test_equal_seeds_and_logits_give_equal_tokens_and_other_seeds_others():
    logits = random_logits(0).expand(3, -1)
    one, other = Sampling(temperature=1.0, seed=1), Sampling(temperature=1.0, seed=2)

    rows = list(zip(*draw([one, one, other], logits), strict=True))

    assert rows[0] == rows[1] != rows[2]
    assert len(set(rows[0])) > 5


def test_a_repetition_penalty_counts_the_answers_own_tokens():
    logits = torch.tensor([[2.0, 1.9, 1.8]])
    choice = TokenChoice(Sampling(temperature=0, repetition_penalty=1.2), [])

    assert [choose_tokens([choice], logits, Noise())[0] for _ in range(4)] == [0, 1, 2, 0]


def test_a_finished_row_draws_nothing():
    assert choose_tokens([None, TokenChoice(GREEDY, [])], random_logits(1, rows=2), Noise())[0] == 0
