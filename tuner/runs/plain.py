"""Values as strict JSON holds them and as anybody may read them."""

import math
from typing import Any

from tuner.runs.redact import redact


def plain(value: Any) -> Any:
    """Make a value fit for a file of a run: a finite number or None, no tensors, no secrets.

    >>> plain({"loss": float("nan"), "steps": (1, 2)})
    {'loss': None, 'steps': [1, 2]}
    """
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item"):  # a number of numpy's or torch's
        return plain(value.item())
    return value
