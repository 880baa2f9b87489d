"""
Is there room for merged weights, on the disk and in memory?

A process without memory is killed without a word, and a full disk shows after minutes: both are
looked at first.
"""

import shutil
from pathlib import Path

from tuner.base_models.lookup import BaseModel
from tuner.device import cpu_limits
from tuner.errors import ExportError, RunError

BYTES_16_BIT = 2  # per parameter
SMALL_FILES = 50_000_000  # bytes of tokenizer and settings, at most


def require_room(base: BaseModel, folder: Path) -> None:
    """Refuse to write merged weights to a disk that is too full.

    Raises:
        RunError: It is.
    """
    needed = base.parameters * BYTES_16_BIT + SMALL_FILES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunError(
            f"The merged weights take {needed / 1e9:,.1f} GB, and the disk they would be written "
            f"to has {free / 1e9:,.1f} GB free. Free some room, or choose a folder on another disk."
        )


def require_memory(base: BaseModel, is_adapter: bool) -> None:
    """Refuse to hold a model that does not fit: in 16 bits, or a full fine-tune as it is stored.

    Raises:
        ExportError: It does not.
    """
    needed = base.parameters * BYTES_16_BIT
    if not is_adapter:
        needed = max(needed, base.weight_bytes)
    _, available, _ = cpu_limits()
    if available < needed:
        raise ExportError(
            f"Merging takes {needed / 1e9:,.1f} GB of memory, and {available / 1e9:,.1f} GB are "
            "free. Stop what else runs here, or merge on a machine with more memory."
        )
