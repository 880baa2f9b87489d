"""
Make waiting cheap: with this folder on PYTHONPATH a child process sleeps a hundredth as long.

The Hub's client waits for seconds before it tries again; what it does then is what tests are about.
"""

import time

_sleep = time.sleep
time.sleep = lambda seconds: _sleep(seconds / 100)
