"""
Regular expressions that somebody wrote into a recipe or an adapter: which may take for ever.

Python compares by trying, and holds up all threads of a process meanwhile. A repeated group makes
that exponential in the text's length, each further repetition multiplies it by that length.
"""

import re

LONGEST = 200  # characters of a pattern
MOST_REPEATS = 4

_GROUP_MARK = re.compile(r"\(\?[:=!<P]")
_ESCAPED = re.compile(r"\\.", re.DOTALL)
_REPEATED_GROUP = re.compile(r"\)[*+{]")
_REPEATED = re.compile(r"[*+{]")


def may_take_for_ever(pattern: str, most_repeats: int = MOST_REPEATS) -> bool:
    r"""Whether a pattern is more than names of layers need.

    >>> may_take_for_ever(r"model\.layers\.\d+\.(self_attn|mlp)\..*_proj")
    False
    >>> may_take_for_ever(r"(\w+)+x"), may_take_for_ever(".*.*.*.*.*x")
    (True, True)
    """
    bare = _ESCAPED.sub("a", _GROUP_MARK.sub("(", pattern))
    return (
        len(pattern) > LONGEST
        or _REPEATED_GROUP.search(bare) is not None
        or len(_REPEATED.findall(bare)) > most_repeats
    )
