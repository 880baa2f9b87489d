"""
The levers of training/speed by name, and what of them is known without torch.

Training decides with a model in hand which of them fit (training/speed/levers.py); the estimate
says beforehand which will (memory/expected_levers.py).
"""

# Each is a file in training/speed, and makes training steps faster.
LEVERS = (
    *("trained_loss", "row_attention", "context_parallel"),
    *("lora_linear", "gated_mlp", "rms_norm", "rotary"),
)
TRAINED_LOSS, ROW_ATTENTION, CONTEXT_PARALLEL, LORA_LINEAR, GATED_MLP, RMS_NORM, ROTARY = LEVERS

# Families for which tests compare loss, gradients and rows by themselves with the plain path.
PROVEN = (
    *("llama", "mistral", "phi3", "starcoder2", "qwen2", "qwen3", "smollm3", "granite"),
    *("gpt_neox", "gemma3_text"),
)
LEAST_TOKENS = 64  # of a part: matrix products of fewer lines are slow ones


def part_count(tokens: int, threads: int) -> int:
    """Parts of a batch that go through the model at the same time (speed/context_parallel.py).

    Where threads are more than parts, as many work on each.

    >>> part_count(512, 2), part_count(100, 2), part_count(512, 3), part_count(300, 8)
    (2, 1, 3, 4)
    """
    most = max(1, tokens // LEAST_TOKENS)
    return max(n for n in range(1, threads + 1) if threads % n == 0 and n <= most)
