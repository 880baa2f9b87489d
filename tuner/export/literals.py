"""
Values as Python literals, the way a formatter would lay them out.

Whatever a person wrote (a system prompt, a name) enters exported code through here alone: repr()
escapes quotes, backslashes and line breaks, so text stays text.
"""

from typing import Any

WIDTH = 100  # columns of a line


def literal(value: Any, column: int = 0, indent: int = 0) -> str:
    """Write a value as Python.

    Args:
        value: Text, a list of texts, a number, a truth value or None.
        column: Where on its line it begins; what does not fit goes on several lines.
        indent: Of that line.

    >>> literal('say "hi"')
    '\\'say "hi"\\''
    >>> print(literal(["a" * 60, "b" * 60]))
    [
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
    ]
    """
    written = _on_one_line(value)
    if len(written) + column <= WIDTH - 1:  # room for a comma
        return written
    inner, outer = " " * (indent + 4), " " * indent
    if isinstance(value, list):
        lines = [f"{inner}{literal(entry, indent + 4, indent + 4)}," for entry in value]
        return "\n".join(["[", *lines, f"{outer}]"])
    if isinstance(value, str) and " " in value:
        lines = [inner + _on_one_line(piece) for piece in _pieces(value, WIDTH - indent - 8)]
        return "\n".join(["(", *lines, f"{outer})"])
    return written


def number(value: float) -> str:
    """A number without a point where it is whole.

    >>> number(32.0), number(0.0002), number(1e-05)
    ('32', '0.0002', '1e-05')
    """
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _on_one_line(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_on_one_line, value))}]"
    written = repr(value)
    if written.startswith("'") and value.count('"') <= value.count("'"):
        # In single quotes each ' has a backslash before it; in double quotes each " needs one.
        inside = written[1:-1].replace("\\'", "'").replace('"', '\\"')
        return f'"{inside}"'
    return written


def _pieces(text: str, width: int) -> list[str]:
    """Cut a text after spaces so that each piece, written as a literal, is about `width` wide."""
    pieces = [""]
    for word in text.split(" "):
        if pieces[-1] and len(_on_one_line(pieces[-1] + word)) > width:
            pieces.append("")
        pieces[-1] += f"{word} "
    pieces[-1] = pieces[-1].removesuffix(" ")
    return [piece for piece in pieces if piece]
