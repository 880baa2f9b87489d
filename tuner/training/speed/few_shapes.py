"""
Sizes rounded up, so that there are few of them.

In 16 bits on a CPU, oneDNN compiles a program for every shape of a matrix product that it meets,
and keeps it: 0.6 MB each, 13 MB for one more length of a batch (docs/EXPERIMENTS.md).
"""

SMALLEST_STEP = 32
SMALLEST_STEP_OF_PARTS = 16
SMALLEST_COUNT = 64


def rounded_up(size: int) -> int:
    """The next of sixteen sizes in every doubling; below 1,024, of the multiples of 32.

    >>> [rounded_up(size) for size in (0, 1, 33, 512, 1000, 1025, 2049)]
    [0, 32, 64, 512, 1024, 1088, 2176]
    """
    return size + -size % step_of(size)


def step_of(size: int, parts: int = 1) -> int:
    """What such sizes are multiples of, and those of the parts that one is cut into.

    >>> step_of(512), step_of(512, 2), step_of(512, 8), step_of(1088, 2), step_of(2176, 3)
    (32, 16, 16, 32, 32)
    """
    step = max(SMALLEST_STEP, 1 << max(0, size.bit_length() - 5))
    least = SMALLEST_STEP_OF_PARTS
    return max(least, step // parts // least * least)


def coarsely_up(size: int) -> int:
    """The next of two sizes in every doubling, for what gains less by an exact size.

    >>> [coarsely_up(size) for size in (1, 65, 97, 129, 200)]
    [64, 96, 128, 192, 256]
    """
    doubled = 1 << (max(size, SMALLEST_COUNT) - 1).bit_length()
    return max(SMALLEST_COUNT, doubled * 3 // 4 if size <= doubled * 3 // 4 else doubled)
