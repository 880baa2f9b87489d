"""
Take secrets out of text before it is kept or shown.

Tokens belong in the environment of one process; this catches those that an exception, a URL or a
log line repeats. Not covered: secrets without a recognisable shape, and train.log itself, which the
training process writes directly. Redact what is read from it.
"""

import re

SECRETS = (
    # Hub tokens: hf_ and 34 letters; OAuth and JWT tokens hold dots and dashes too.
    (re.compile(r"(?<![A-Za-z0-9])hf_(?:oauth_|jwt_)[\w.\-]{8,}"), "[Hub token]"),
    (re.compile(r"(?<![A-Za-z0-9])(?:hf_|api_org_)[A-Za-z0-9]{20,}"), "[Hub token]"),
    # A digit is asked for: "bearer certificates" is a word in a contract, not a header.
    (re.compile(r"(?i)\b(bearer\s+)(?=\S*\d)[\w.~+/=\-]{16,}"), r"\1[token]"),
    (re.compile(r"://[^\s/@\"'<>]+@"), "://[user]@"),
    (re.compile(r"(?i)([?&](?:access_token|api_key|token|signature)=)[^\s&#\"']+"), r"\1[secret]"),
)


def redact(text: str) -> str:
    """Replace Hub tokens, Bearer headers and secrets in URLs by placeholders.

    >>> redact("401 for https://me:pw@hf.co/x?token=abc with Bearer hf_" + "a1" * 17)
    '401 for https://[user]@hf.co/x?token=[secret] with Bearer [Hub token]'
    """
    for pattern, placeholder in SECRETS:
        text = pattern.sub(placeholder, text)
    return text
