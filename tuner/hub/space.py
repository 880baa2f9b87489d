"""
Whether this is a Hugging Face Space, what kind, and where on it a file lasts.

    is_space(), disk_is_temporary(), on_zero_gpu()
    for notice in settle_storage(): ...   # first of all, in app.py

A Space's disk is empty again after every restart, but for a bucket mounted on /data: where there
is one, the runs, the models and the uploads live there. Libraries read where their caches are once,
when they are imported, so settle_storage comes before the first import of huggingface_hub and
gradio; this module imports neither.
TUNER_DATA_DIR names another folder than /data.
Not covered: who visits a Space (hub/identity.py), making one (hub/deploy.py).
"""

import os
import tempfile
from pathlib import Path

DATA = "/data"  # where a Space mounts the storage that outlives a restart

# What libraries keep beside the runs: the setting, and its folder under the storage.
CACHES = {
    "HF_HOME": "huggingface",
    "GRADIO_TEMP_DIR": "uploads",
    "MPLCONFIGDIR": "matplotlib",
    "XDG_CACHE_HOME": "cache",
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TRACKIO_DIR": "trackio",
}
LASTING = ("HF_HOME", "GRADIO_TEMP_DIR")  # worth a bucket's room; the others are made again
ON = ("1", "true", "yes", "on")


def is_space() -> bool:
    """Whether this is a Hugging Face Space."""
    return bool(os.environ.get("SPACE_ID"))


def on_zero_gpu() -> bool:
    """Whether this Space borrows a GPU for each call (ZeroGPU) and has none between them."""
    return is_space() and os.environ.get("SPACES_ZERO_GPU", "").strip().lower() in ON


def data_dir() -> Path:
    """Where storage that outlives a restart is mounted, if it is."""
    return Path(os.environ.get("TUNER_DATA_DIR") or DATA)


def keeps_data() -> bool:
    """Whether there is such storage, and this process may write there."""
    return is_writable(data_dir())


def disk_is_temporary() -> bool:
    """Whether what is made here is gone after a restart: a Space without storage of its own."""
    return is_space() and not keeps_data()


def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder that is there."""
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def settle_storage() -> list[str]:
    """Have every library keep its files where they last, or at least where they can be written.

    Changes this process's environment, for it and for all that it starts. What somebody has set
    stays as it is.

    Returns:
        Notices: what is kept in a folder that does not last.
    """
    if is_space() and keeps_data():
        for name in LASTING:
            os.environ[name] = os.environ.get(name) or str(data_dir() / CACHES[name])
    home = home_caches()
    if can_be_written(home):
        return []
    lost = [name for name in CACHES if not os.environ.get(name)]
    aside = Path(tempfile.mkdtemp(prefix="tuner-caches-"))
    for name in lost:
        os.environ[name] = str(aside / CACHES[name])
    if "HF_HOME" not in lost:
        return []
    return [
        f"{home} cannot be written, so models and data sets are kept in {aside}, which does not "
        "last. Set HF_HOME to a folder that does."
    ]


def home_caches() -> Path:
    """Where libraries keep their caches unless told otherwise."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given)
    # Not Path.home(): where HOME is unset and nobody is known, it raises.
    return Path(os.path.expanduser("~")) / ".cache"  # noqa: PTH111


def can_be_written(folder: Path) -> bool:
    """Whether files can be made in a folder, or in the one that it would be made in.

    Tried, not asked: on a disk that is mounted read-only rights say otherwise.
    """
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            return True
    except OSError:
        return False
