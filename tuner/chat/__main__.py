"""
Answer what a ChatClient asks; see server.py.

    python -m tuner.chat [--idle-seconds 600]
"""

import argparse
from typing import TYPE_CHECKING

from tuner.chat.server import serve
from tuner.chat.voices import Base

if TYPE_CHECKING:
    from tuner.chat.engine import Engine


def load(base: Base) -> "Engine":
    """Bring a base into memory."""
    from tuner.chat.engine import Engine  # seconds of imports, during which requests are read

    return Engine(base)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tuner.chat", description="Answer a client.")
    parser.add_argument(
        "--idle-seconds", type=float, help="end when nobody asks for so long (default: never)"
    )
    serve(load, parser.parse_args().idle_seconds)
