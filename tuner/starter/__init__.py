"""
The built-in practice model: 2.6 million parameters that chat with no internet and no GPU.

This module imports nothing heavy, so the page can show the path without loading torch.
"""

from pathlib import Path

STARTER_DIR = Path(__file__).parent / "model"
