"""
The levers of training/speed by name, and what of them is known without torch.

Training decides with a model in hand which of them fit (training/speed/levers.py); the estimate
says beforehand which will (memory/expected_levers.py).
"""

# Each is a file in training/speed, and makes training steps faster.
LEVERS = (
    *("trained_loss", "row_attention", "parallel_rows"),
    *("lora_linear", "gated_mlp", "rms_norm", "rotary"),
)
TRAINED_LOSS, ROW_ATTENTION, PARALLEL_ROWS, LORA_LINEAR, GATED_MLP, RMS_NORM, ROTARY = LEVERS

# Families for which tests compare loss, gradients and rows by themselves with the plain path.
PROVEN = (
    *("llama", "mistral", "phi3", "starcoder2", "qwen2", "qwen3", "smollm3", "granite"),
    *("gpt_neox", "gemma3_text"),
)
LEAST_ROWS = 2  # a thread's share of a batch: of fewer, the longest would be waited for


def share_count(rows: int, threads: int) -> int:
    """Shares of a batch that go through the model at the same time (speed/parallel_rows.py).

    Where threads are more than shares, as many work on each.

    >>> share_count(8, 2), share_count(3, 2), share_count(4, 8)
    (2, 1, 2)
    """
    most = max(1, rows // LEAST_ROWS)
    return max(n for n in range(1, threads + 1) if threads % n == 0 and n <= most)
