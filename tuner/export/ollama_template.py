"""
A chat template in Ollama's language, found by looking at what the original renders.

    template = ollama_template(renderer.prompt_text, bos="<s>")     None where it cannot be said

Jinja can compute anything, Go's templates little. But what a chat template puts between two
messages mostly depends on who speaks before and after. So short conversations with known contents
are rendered, and the texts between the contents are read off: start→system, start→user,
system→user, user→assistant, assistant→user, and what invites the answer. A system message that has
no place of its own, and stands in the first or (Mistral) in the last question, is covered by that.

The result is rendered again (go_template.py) and compared with the original on other conversations;
one that differs anywhere is not returned.
Not covered: tools, images, thinking on demand.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence

from tuner.errors import DatasetError
from tuner.export import go_template

Render = Callable[[Sequence[dict[str, str]]], str]

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
# What Go or the Modelfile would not take as it is: braces that look like an action, the end of a
# long string, characters that the Modelfile's reader drops.
UNSAYABLE = re.compile(r'\{+|"""|[^\n -\U0010ffff]|[\x7f-\xa0\xad\u200b-\u200f\u2028-\u202e\ufeff]')
PROBES = (  # of each, the roles; the comparison goes over all of them
    "u su uau suau uauau suauau uauauau suauauau".split()
)
CONTENTS = (
    "Where is my order?",
    'It left on Monday: "today", 100% {sure}.\n\nAnything else?',
    "Straße 12, 東京 🙂",
    "def f(x):\n    return {x: [1]}",
    "Be brief.\nAnswer in German.",
)
NAMES = {"s": SYSTEM, "u": USER, "a": ASSISTANT}


def ollama_template(prompt_text: Render, bos: str = "") -> str | None:
    """Translate a chat template.

    Args:
        prompt_text: Renders a conversation up to where the assistant speaks.
        bos: What Ollama puts before every prompt by itself, so that the template must not.

    Returns:
        A Go template; None where the original does what cannot be expressed.
    """

    def render(messages: Sequence[dict[str, str]]) -> str:
        return prompt_text(messages).removeprefix(bos)

    try:
        template = _template(_Between(render))
        return template if all(_agrees(template, render, roles) for roles in PROBES) else None
    except (DatasetError, ValueError):
        return None


class _Between:
    """The texts between contents, by who speaks before and after: ("", "user"), ("user", "")…"""

    def __init__(self, render: Render):
        self.texts: dict[tuple[str, str], str] = {}
        # Of the last question only: a template that gives the system message a place there.
        self.late: str | None = None
        for roles in ("u", "uau", "su"):
            self._read(render, roles)
        marked, order = _marked("suau"), [1, 2, 0, 3]
        parts = _split(render(marked), [marked[number]["content"] for number in order])
        if parts is not None:
            self.late = parts[3]

    def _read(self, render: Render, roles: str) -> None:
        marked = _marked(roles)
        parts = _split(render(marked), [message["content"] for message in marked])
        if parts is None:
            raise ValueError("the contents are not found in the order in which they are said")
        names = ["", *(NAMES[role] for role in roles), ""]
        for number, part in enumerate(parts):
            self.texts.setdefault((names[number], names[number + 1]), part)


def _marked(roles: str) -> list[dict[str, str]]:
    """Messages whose contents are words that no template has."""
    return [{"role": NAMES[role], "content": f"Qz{n}xJ{n}kW"} for n, role in enumerate(roles)]


def _split(text: str, contents: Sequence[str]) -> list[str] | None:
    """The texts before, between and after; None where they are not in this order, once each."""
    parts = []
    for content in contents:
        before, found, text = text.partition(content)
        if not found or content in text:
            return None
        parts.append(before)
    return [*parts, text]


def _template(between: _Between) -> str:
    texts = between.texts
    user = _user_prefix(texts, () if between.late is not None else (SYSTEM,))
    answer = _said(texts[USER, ASSISTANT])
    content, remember = "{{ .Content }}", "{{ $before = .Role }}"
    invite = f'{{{{ if eq $before "user" }}}}{_said(texts[USER, ""])}{{{{ end }}}}'
    begin, end = '{{ $before := "" }}', "{{ end }}"
    if between.late is None:
        turn = _chosen(".Role", {SYSTEM: _said(texts["", SYSTEM]), USER: user, ASSISTANT: answer})
        return f"{begin}{{{{ range .Messages }}}}{turn}{content}{remember}{end}{invite}"
    is_last = "eq (len (slice $.Messages $i)) 1"
    system = f"{{{{ $.System }}}}{_said(between.late)}"
    user += f"{{{{ if and $.System ({is_last}) }}}}{system}{end}"
    turn = _chosen(".Role", {USER: user, ASSISTANT: answer})
    spoken = f'{{{{ if ne .Role "system" }}}}{turn}{content}{remember}{end}'
    return f"{begin}{{{{ range $i, $_ := .Messages }}}}{spoken}{end}{invite}"


def _user_prefix(texts: Mapping[tuple[str, str], str], special: Sequence[str]) -> str:
    """What stands before a question: by who spoke before, where that makes a difference."""
    usual = _said(texts[ASSISTANT, USER])
    others = {role: _said(texts[role, USER]) for role in ("", *special)}
    differing = {role: text for role, text in others.items() if text != usual}
    return _chosen("$before", differing, usual) if differing else usual


def _chosen(variable: str, texts: Mapping[str, str], otherwise: str | None = None) -> str:
    branches = "{{ else ".join(
        f"if eq {variable} {json.dumps(value)} }}}}{text}" for value, text in texts.items()
    )
    rest = "" if otherwise is None else f"{{{{ else }}}}{otherwise}"
    return f"{{{{ {branches}{rest}{{{{ end }}}}"


def _said(text: str) -> str:
    """Text as it stands in a template; what would mean something there becomes a string of Go's.

    >>> _said('a {{ b')
    'a {{ "{{" }} b'
    """
    return UNSAYABLE.sub(lambda found: f"{{{{ {_go_string(found[0])} }}}}", text)


def _go_string(text: str) -> str:
    return "".join(['"', *map(_go_character, text), '"'])


def _go_character(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if " " <= character <= "~" else f"\\u{ord(character):04x}"


def _agrees(template: str, render: Render, roles: str) -> bool:
    messages = [
        {"role": NAMES[role], "content": CONTENTS[-1] if role == "s" else CONTENTS[n % 4]}
        for n, role in enumerate(roles)
    ]
    return go_template.render(template, messages) == render(messages)
