"""Whether two are written alike: transformers copies code from family to family."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn


def has_code_of(module: nn.Module, reference: type[nn.Module]) -> bool:
    """Whether a module's forward is the reference's, to the letter, whatever its class is called.

    >>> from transformers.models.llama.modeling_llama import LlamaRMSNorm
    >>> from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
    >>> has_code_of(Qwen3RMSNorm(8), LlamaRMSNorm)
    True
    """
    return same_code(type(module).forward, reference.forward)


def same_code(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Whether two functions are written alike, names of variables included."""
    code = _code(one)
    return one is other or (code is not None and code == _code(other))


def _code(function: Callable[..., Any]) -> Any:
    # Of a layer, the wrapper that checkpoints it is every family's.
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None)
    if code is None:
        return None
    # Without its docstring, which is told from family to family.
    constants = [constant for constant in code.co_consts if constant != function.__doc__]
    return code.co_code, code.co_names, code.co_varnames, constants
