"""
Is the process that a run recorded still there?

A pid alone does not say: pids are given out again. A process is the same if it also began at the
same time. That time is compared twice, on the wall clock and since the machine's boot, because a
clock that is set (a laptop waking up, WSL) moves the first, and a reboot makes the second ambiguous
by itself only for a process of the same pid that began in the same hundredth of a second.

Not covered: processes of another machine that shares the folder.
"""

from typing import NamedTuple

import psutil

WALL_CLOCK_TOLERANCE = 1.0
SINCE_BOOT_TOLERANCE = 0.05  # Linux counts in hundredths
GONE = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


class Birth(NamedTuple):
    """When a process began.

    Attributes:
        started: Unix seconds.
        after_boot: Seconds since the machine's boot.
    """

    started: float
    after_boot: float


def birth(pid: int) -> Birth:
    """When the process `pid` began.

    Raises:
        psutil.NoSuchProcess: There is none.
    """
    started = psutil.Process(pid).create_time()
    return Birth(started, started - psutil.boot_time())


def is_alive(pid: int | None, started: float | None, after_boot: float | None = None) -> bool:
    """Whether the process `pid` that began at `started` still runs. A zombie does not."""
    if pid is None or pid <= 0 or started is None:
        return False
    try:
        process = psutil.Process(pid)
        same = _began_at(process.create_time(), started, after_boot)
        return same and process.status() not in GONE
    except psutil.NoSuchProcess:
        return False


def _began_at(created: float, started: float, after_boot: float | None) -> bool:
    if abs(created - started) < WALL_CLOCK_TOLERANCE:
        return True
    if after_boot is None:
        return False
    return abs(created - psutil.boot_time() - after_boot) < SINCE_BOOT_TOLERANCE
