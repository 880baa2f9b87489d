"""
How the page is started: `python app.py --help`, and the environment of a Space.

    TUNER_RUNS_DIR      where the runs are kept
    TUNER_MAX_UPLOAD    the largest file that may be uploaded, such as 500mb (the default) or 2gb
"""

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner.hub.space import data_dir, is_space, keeps_data

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"  # a Space's proxy is another machine
PORT = 7860
MAX_UPLOAD = "500mb"
UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9}


@dataclass(frozen=True)
class Options:
    """Where the page listens and what it keeps.

    Attributes:
        max_upload_bytes: Of one file.
        share: Also on a public address, through Gradio's tunnel.
        mcp: Also as tools for language models (Model Context Protocol).
        trust_network: Whoever reaches the page may do everything.
    """

    host: str
    port: int
    runs_dir: Path
    max_upload_bytes: int
    share: bool = False
    mcp: bool = False
    trust_network: bool = False

    @property
    def open_to_others(self) -> bool:
        """Whether anybody but who sits at this machine can reach the page."""
        return self.share or in_a_space() or self.host not in (LOOPBACK, "localhost", "::1")


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """The options of the command line, over the environment's, over the defaults."""
    given = _parser().parse_args(arguments)
    return Options(
        host=given.host,
        port=given.port,
        runs_dir=given.runs_dir.expanduser().resolve(),
        max_upload_bytes=given.max_upload,
        share=given.share,
        mcp=given.mcp,
        trust_network=given.trust_network,
    )


def in_a_space() -> bool:
    """Whether this is a Hugging Face Space."""
    return is_space()


def size(text: str) -> int:
    """Bytes of a size as people write it.

    >>> size("500mb"), size("1.5 GB"), size("2048")
    (500000000, 1500000000, 2048)
    """
    found = re.fullmatch(r"([\d.]+)\s*([kmg]b)?", text.strip().lower())
    try:
        count = round(float(found[1]) * UNITS.get(found[2] or "", 1)) if found else 0
    except (ValueError, OverflowError):
        count = 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is no size; write for example 500mb.")
    return count


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python app.py", description="Tuner's page: fine-tune language models in the browser."
    )
    parser.add_argument(
        "--host",
        default=os.environ.get("GRADIO_SERVER_NAME") or (EVERYWHERE if in_a_space() else LOOPBACK),
        help="address to listen on; by default only this machine can open the page",
    )
    parser.add_argument("--port", type=int, default=os.environ.get("GRADIO_SERVER_PORT") or PORT)
    parser.add_argument(
        "--runs-dir",
        type=Path,
        default=Path(os.environ.get("TUNER_RUNS_DIR") or _default_runs_dir()),
        help="folder that holds the runs (also TUNER_RUNS_DIR)",
    )
    parser.add_argument(
        "--max-upload",
        type=size,
        default=os.environ.get("TUNER_MAX_UPLOAD") or MAX_UPLOAD,
        help=f"largest upload (also TUNER_MAX_UPLOAD); {MAX_UPLOAD}",
    )
    parser.add_argument(
        "--share", action="store_true", help="also give the page a public address (off by default)"
    )
    parser.add_argument(
        "--mcp", action="store_true", help="also offer the API as MCP tools for language models"
    )
    parser.add_argument(
        "--trust-network",
        action="store_true",
        help="let whoever reaches the page do everything, as you may; others than this machine "
        "are visitors without it (also TUNER_TRUST_NETWORK=1; no effect on a Space)",
    )
    return parser


def _default_runs_dir() -> str:
    return str(data_dir() / "runs") if in_a_space() and keeps_data() else "runs"
