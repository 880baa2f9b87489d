"""Numbers as people read them: with a unit, and with enough digits to decide."""

from collections.abc import Sequence


def duration(seconds: float) -> str:
    """Two units at most.

    >>> duration(8.2), duration(112), duration(7500), duration(200000)
    ('8 s', '1 min 52 s', '2 h 5 min', '2 d 7 h')
    """
    whole = round(seconds)
    for size, large, small_size, small in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // small_size
            return f"{whole // size} {large}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def gigabytes(count: float) -> str:
    """Bytes in decimal gigabytes, megabytes where that says more.

    >>> gigabytes(6_120_000_000), gigabytes(48_000_000)
    ('6.1 GB', '48 MB')
    """
    if count < 0.1e9:
        return f"{count / 1e6:.0f} MB"
    return f"{count / 1e9:.1f} GB"


def share(part: float, whole: float) -> str:
    """A percentage; below one, with as many digits as it takes.

    >>> share(1, 3), share(4, 1000), share(3, 100000), share(0, 5)
    ('33%', '0.4%', '0.003%', '0%')
    """
    percent = 100 * part / whole if whole else 0.0
    return f"{percent:.0f}%" if percent >= 1 or not percent else f"{percent:.1g}%"


def parameters(count: int) -> str:
    """A count of weights.

    >>> parameters(7_241_732_096), parameters(135_000_000), parameters(640)
    ('7.2 B', '135 M', '640')
    """
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            digits = 1 if count < 100 * size else 0
            return f"{count / size:.{digits}f} {unit}"
    return str(count)


def loss(value: float | None) -> str:
    """A loss in the digits that move."""
    return "–" if value is None else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def aligned(rows: Sequence[Sequence[str]], numeric: Sequence[int] = ()) -> str:
    """Rows as a table; the first row is its head, the columns in `numeric` are flush right.

    >>> print(aligned([("run", "steps"), ("a", "7"), ("bb", "60")], numeric=[1]))
    run  steps
    a        7
    bb      60
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join(
            cell.rjust(width) if column in numeric else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
