"""
Who answers, from which base, how, and what comes back while it does. Plain data, without torch.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Base:
    """Which base is in memory; two equal ones are the same base.

    Attributes:
        model: starter, a folder or a Hub id.
        quantization, dtype: As in a recipe.
    """

    model: str
    revision: str | None
    quantization: Literal["nf4", "int8", "none"]
    dtype: str = "auto"


@dataclass(frozen=True)
class Voice:
    """Who answers one row.

    Attributes:
        name: As shown: "base", "support-bot", "support-bot · step 40".
        adapter: Folder of a PEFT adapter; None: the base itself.
        model: Folder of a full fine-tune: its own model in memory, its own pass.
    """

    name: str
    adapter: str | None = None
    model: str | None = None


@dataclass(frozen=True)
class Sampling:
    """How one row draws its tokens.

    Attributes:
        temperature: 0 is greedy.
        seed: Each row draws from its own generator begun with this seed: equal logits give equal
            answers.
        stop: Texts that end an answer.
    """

    max_new_tokens: int = 256
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 7
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One answer to make; `messages` ends with the user's turn."""

    voice: Voice
    messages: tuple[dict[str, str], ...]
    sampling: Sampling


@dataclass(frozen=True)
class Piece:
    """What generate() yields.

    Attributes:
        row: Index into the rows.
        text: New text of this row; may be "" when a character is incomplete.
        reason: When done: "stop token", "stop string", "length" or "cancelled".
        tokens: New tokens so far.
        seconds: Since the batch began.
        first_seconds: Until the first token of this row.
        note: For example "DoRA: answered in a pass of its own".
    """

    row: int
    text: str
    done: bool = False
    reason: str = ""
    tokens: int = 0
    seconds: float = 0.0
    first_seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Scores:
    """How likely each voice found each token of one answer: "what changed", token by token.

    Attributes:
        texts: N tokens; joined, they are the answer with its stop token.
        names: V voices, as asked.
        logprobs: V × N natural logarithms; tuned minus base is above 0 where the tuned model found
            the token more likely.
    """

    texts: tuple[str, ...]
    names: tuple[str, ...]
    logprobs: tuple[tuple[float, ...], ...]
