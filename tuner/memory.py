"""
Will it fit? Memory and time of a run, from a model's config and a Recipe. Arithmetic only.

    >>> from tuner.recipe import Recipe
    >>> round(nf4_bits(double_quantization=False) - nf4_bits(), 3)  # QLoRA, section 3
    0.373

The estimate is the largest of three moments: weights being read, the top of the backward pass, and
its end. bench/memory.py measures real runs beside it; docstrings name the tensors counted.
QLoRA: https://arxiv.org/abs/2305.14314 · 8-bit optimizers: https://arxiv.org/abs/2110.02861
Not covered: weights or optimizer split over several GPUs; mixtures of experts, but for their weights.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tuner.activations import (
    FLOAT,
    Pass,
    kept_by_blocks,
    kept_by_last_norm,
    kept_with_checkpointing,
)
from tuner.architecture import Architecture, Linear, read_architecture, target_linears
from tuner.base_models import BaseModel
from tuner.device import Device, matmul_flops
from tuner.errors import RecipeError
from tuner.recipe import Recipe
