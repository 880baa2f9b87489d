"""
Where the page will be. There is none yet, so this shows what it will sit on:

    python app.py

It trains the chatbot preset on the built-in practice model (no internet, about two minutes on two
CPU cores) and says where the result is. Everything else is in the shell: python -m tuner --help.
"""

import signal
import subprocess
import sys
from pathlib import Path

COMMAND = ["-m", "tuner", "train", "--preset", "chatbot"]


def main() -> int:
    """Train the preset, which ends by naming the adapter's folder; the exit code is its own."""
    print("The page is not built yet. Training the chatbot preset on the built-in model instead:")
    print(f"  python {' '.join(COMMAND)}\n", flush=True)
    # Ctrl-C is for the training, which stops and keeps its adapter; this waits for it to do so.
    signal.signal(signal.SIGINT, lambda *_: None)
    return subprocess.call([sys.executable, *COMMAND], cwd=Path(__file__).parent)


if __name__ == "__main__":
    sys.exit(main())
