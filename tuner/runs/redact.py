"""Blank out what must never be written down: Hub tokens, bearer headers, passwords in URLs."""

import re

SECRETS = re.compile(
    r"(?P<token>\bhf_[A-Za-z0-9]{10,})"
    r"|(?P<bearer>(?<=Bearer )[A-Za-z0-9._\-]{10,})"
    r"|(?P<userinfo>(?<=://)[^/\s:@]+:[^/\s@]+(?=@))"
)


def redact(text: str) -> str:
    """Replace secrets by [redacted].

    >>> redact("Authorization: Bearer hf_abcdefghijklmnop")
    'Authorization: Bearer [redacted]'
    """
    return SECRETS.sub("[redacted]", text)
