"""
Draw each row's next token, in transformers' order and by its definitions: repetition penalty,
temperature, top-k, top-p, min-p.

Rows with one seed share their noise, so two voices that find the same tokens likely say the same,
and what differs between their answers differs because the models do. Drawing is by the Gumbel trick
(https://arxiv.org/abs/1611.01144): the largest of p / e, with e exponential.
"""

from collections.abc import Sequence

import torch

from tuner.chat.voices import Sampling

TOP_P_FIRST = 1024  # tokens that nearly always hold the nucleus; sorting all takes milliseconds


class TokenChoice:
    """How one row chooses its tokens.

    Args:
        sampling: Temperature and the like.
        prompt_ids: What the repetition penalty counts as said, beside the answer.
    """

    def __init__(self, sampling: Sampling, prompt_ids: Sequence[int]):
        self.sampling = sampling
        self._seen = sorted(set(prompt_ids)) if sampling.repetition_penalty != 1 else []

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the largest logit is the choice."""
        return self.sampling.temperature == 0 and self.sampling.repetition_penalty == 1

    def note(self, token: int) -> None:
        """Count a token as said."""
        if self.sampling.repetition_penalty != 1:
            self._seen.append(token)

    def choose(self, logits: torch.Tensor, noise: "Noise") -> int:
        """The next token, of one row's V logits."""
        logits = penalized(logits.float(), self._seen, self.sampling.repetition_penalty)
        if self.sampling.temperature == 0:
            return int(logits.argmax())
        probabilities = warped(logits, self.sampling).softmax(-1)
        return int((probabilities / noise.of(self.sampling.seed, logits.numel())).argmax())


class Noise:
    """One batch's random numbers: for each seed a generator, drawn from once a step."""

    def __init__(self) -> None:
        self._generators: dict[int, torch.Generator] = {}
        self._drawn: dict[int, torch.Tensor] = {}

    def next_step(self) -> None:
        """Forget the last step's numbers; all rows of a batch step together."""
        self._drawn.clear()

    def of(self, seed: int, size: int) -> torch.Tensor:
        """`size` exponential numbers, the same for all rows with this seed."""
        if seed not in self._drawn:
            if seed not in self._generators:
                self._generators[seed] = torch.Generator().manual_seed(seed)
            numbers = torch.empty(size).exponential_(generator=self._generators[seed])
            self._drawn[seed] = numbers
        return self._drawn[seed]


def choose_tokens(
    choices: Sequence[TokenChoice | None], logits: torch.Tensor, noise: Noise
) -> list[int]:
    """The next token of each row.

    Args:
        choices: None for rows that are finished: theirs is token 0.
        logits: rows × V.
    """
    noise.next_step()
    greedy: list[int] = logits.argmax(-1).tolist()
    drawn = any(choice and not choice.is_plain_greedy for choice in choices)
    here = logits.cpu() if drawn else logits
    tokens = []
    for choice, largest, row in zip(choices, greedy, here, strict=True):
        if choice is None:
            tokens.append(0)
            continue
        token = largest if choice.is_plain_greedy else choice.choose(row, noise)
        choice.note(token)
        tokens.append(token)
    return tokens


def penalized(logits: torch.Tensor, seen: Sequence[int], penalty: float) -> torch.Tensor:
    """Make what was said less likely: https://arxiv.org/abs/1909.05858."""
    if penalty == 1 or not seen:
        return logits
    ids = torch.tensor(seen)
    said = logits[ids]
    return logits.index_put((ids,), torch.where(said < 0, said * penalty, said / penalty))


def warped(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """V logits as they are drawn from; -inf where a token is ruled out."""
    logits = logits / sampling.temperature
    if sampling.top_k:
        least = logits.topk(min(sampling.top_k, logits.numel())).values[-1]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        logits = _nucleus(logits, sampling.top_p)
    if sampling.min_p > 0:
        # p < min_p · largest p, in logarithms.
        least = logits.max() + torch.tensor(sampling.min_p).log()
        logits = logits.masked_fill(logits < least, -torch.inf)
    return logits


def _nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep the likeliest tokens, until together they reach top_p; at least one."""
    probabilities = logits.softmax(-1)
    count = min(TOP_P_FIRST, logits.numel())
    largest, ids = probabilities.topk(count)
    if largest.sum() < top_p:
        largest, ids = probabilities.sort(descending=True)
    before = largest.cumsum(-1) - largest
    kept = ids[before < top_p] if top_p > 0 else ids[:1]
    return torch.full_like(logits, -torch.inf).index_copy(0, kept, logits[kept])
