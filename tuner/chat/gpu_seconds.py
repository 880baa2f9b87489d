"""
How many seconds of a borrowed GPU one request asks for (ZeroGPU).

    gpu_seconds(generate_request(base, rows, "id"), weight_bytes=3_000_000_000)

Too few, and the answer is cut off; too many, and who has little of a day's quota left is refused:
what is charged is the time that was used, but what is asked for must be there. The figures are
cautious guesses for an H200 and for transformers' eager decoding, where a token costs what its
kernels take to launch; nothing here was measured on ZeroGPU.
"""

from collections.abc import Mapping
from typing import Any

from tuner.chat.protocol import Request
from tuner.chat.voices import Sampling

LEAST, MOST = 15, 120
START_SECONDS = 6.0  # the fork, CUDA's context, the first kernels
LOAD_BYTES_PER_SECOND = 1e9  # from files to the GPU, quantized on the way where that is asked
BYTES_PER_WEIGHT = 2
FLOPS = 1e14  # a tenth of the card's, for prompts
TOKEN_SECONDS = 0.03  # one forward of a batch, however small
TOKEN_BYTES_PER_SECOND = 1e12  # it reads all weights
QUANTIZED_SLOWER = {"nf4": 2.0, "int8": 3.0, "none": 1.0}  # each forward unpacks all weights
CHARACTERS_PER_TOKEN = 3


def gpu_seconds(request: Request, weight_bytes: int, full_models: int = 0) -> int:
    """Seconds to ask for, from LEAST to MOST.

    Args:
        weight_bytes: Of the base, as it is stored.
        full_models: Full fine-tunes among the voices: each is loaded and answers by itself.

    >>> row = {"voice": {}, "messages": [{"role": "user", "content": "Hi"}], "sampling": {}}
    >>> ask = {"id": "", "do": "generate", "base": {"quantization": "none"}, "rows": [row] * 2}
    >>> small, large = 270_000_000, 14_000_000_000
    >>> gpu_seconds(ask, small), gpu_seconds(ask, large), gpu_seconds(ask, large, full_models=1)
    (15, 31, 57)
    """
    load = weight_bytes / LOAD_BYTES_PER_SECOND
    passes = 1 + full_models
    slower = QUANTIZED_SLOWER[request["base"]["quantization"]]
    prompts = 2 * weight_bytes / BYTES_PER_WEIGHT * _prompt_tokens(request) / FLOPS
    step = TOKEN_SECONDS + weight_bytes / TOKEN_BYTES_PER_SECOND
    answers = (prompts + step * _new_tokens(request)) * slower
    return round(min(MOST, max(LEAST, START_SECONDS + passes * (load + answers))))


def _prompt_tokens(request: Request) -> int:
    """Of all rows together; guessed, as counting would take the model's tokenizer."""
    rows = request.get("rows", [])
    read = [text for row in rows for text in row["messages"]]
    scored = [*request.get("messages", []), {"content": request.get("answer", "")}]
    read += scored * len(request.get("voices", []))
    return sum(len(message["content"]) for message in read) // CHARACTERS_PER_TOKEN


def _new_tokens(request: Request) -> int:
    """Of the longest row: they are written side by side."""
    return max(map(_longest, request.get("rows", [])), default=0)


def _longest(row: Mapping[str, Any]) -> int:
    return int(row["sampling"].get("max_new_tokens", Sampling.max_new_tokens))
