"""
Go's templates, as far as Modelfiles are written in them here, rendered as Ollama renders them.

    render('{{ range .Messages }}{{ .Content }}{{ end }}', [{"role": "user", "content": "Hi"}])

With it a translated chat template is compared with the original before anybody relies on it.
Covered: text, strings, variables, .System, .Messages, .Role, .Content, range, if, else if, else,
eq, ne, and, len, slice. Not covered: trim markers, pipes, tools, everything else.

Go's language: https://pkg.go.dev/text/template
What Ollama puts in: https://github.com/ollama/ollama/blob/main/template/template.go
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Messages = Sequence[Mapping[str, str]]

ACTION = re.compile(r'\{\{ ((?:"(?:[^"\\]|\\.)*"|[^"}])*?) \}\}')
WORD = re.compile(r'"(?:[^"\\]|\\.)*"|:=|[=(),]|[^\s=(),:]+')
BLOCKS = ("range", "if")


class Node(NamedTuple):
    """Text, an action, or a block with what is in it and, for an if, what else."""

    kind: str
    words: list[str]
    body: list["Node"]
    otherwise: list["Node"]


def render(template: str, messages: Messages) -> str:
    """What the model is given for a conversation.

    Raises:
        ValueError: The template uses what is not covered here.

    >>> render('{{ range .Messages }}{{ if eq .Role "user" }}> {{ end }}{{ .Content }}{{ end }}',
    ...        [{"role": "user", "content": "Hi"}])
    '> Hi'
    """
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    data = {"System": system, "Messages": _collated(messages)}
    nodes, rest = _parse(_pieces(template))
    if rest:
        raise ValueError(f"{rest[0]} closes nothing")
    return _written(nodes, data, {"$": data})


def _collated(messages: Messages) -> list[dict[str, str]]:
    """Ollama joins what one role says in a row."""
    found: list[dict[str, str]] = []
    for message in messages:
        if found and found[-1]["Role"] == message["role"]:
            found[-1]["Content"] += "\n\n" + message["content"]
        else:
            found.append({"Role": message["role"], "Content": message["content"]})
    return found


def _pieces(template: str) -> list[tuple[str, list[str]]]:
    """("text", [it]) and ("action", words), in order."""
    found, end = [], 0
    for match in ACTION.finditer(template):
        found.append(("text", [template[end : match.start()]]))
        found.append(("action", WORD.findall(match[1])))
        end = match.end()
    return [*found, ("text", [template[end:]])]


def _parse(pieces: list[tuple[str, list[str]]]) -> tuple[list[Node], list[list[str]]]:
    """Nodes up to the `end` or `else` that closes them, and that one; none at the very end."""
    nodes: list[Node] = []
    while pieces:
        kind, words = pieces.pop(0)
        if kind == "text":
            nodes.append(Node("text", words, [], []))
        elif words[0] in ("end", "else"):
            return nodes, [words]
        elif words[0] in BLOCKS:
            nodes.append(_block(words, pieces))
        else:
            nodes.append(Node("action", words, [], []))
    return nodes, []


def _block(words: list[str], pieces: list[tuple[str, list[str]]]) -> Node:
    body, closed = _parse(pieces)
    if closed == [["end"]]:
        return Node(words[0], words[1:], body, [])
    if closed == [["else"]]:
        otherwise, closed = _parse(pieces)
        if closed == [["end"]]:
            return Node(words[0], words[1:], body, otherwise)
    elif closed and closed[0][:2] == ["else", "if"]:
        return Node(words[0], words[1:], body, [_block(closed[0][1:], pieces)])
    raise ValueError(f"{' '.join(words)} is not closed")


def _written(nodes: list[Node], dot: Any, variables: dict[str, Any]) -> str:
    text = []
    for node in nodes:
        if node.kind == "text":
            text.append(node.words[0])
        elif node.kind == "range":
            text += _each(node, dot, variables)
        elif node.kind == "if":
            chosen = node.body if _value(node.words, dot, variables) else node.otherwise
            text.append(_written(chosen, dot, variables))
        elif len(node.words) > 1 and node.words[1] in (":=", "="):
            variables[node.words[0]] = _value(node.words[2:], dot, variables)
        else:
            text.append(str(_value(node.words, dot, variables)))
    return "".join(text)


def _each(node: Node, dot: Any, variables: dict[str, Any]) -> list[str]:
    """The body for each element: `range .Messages` or `range $i, $_ := .Messages`."""
    *names, of = node.words
    found = []
    for index, element in enumerate(_value([of], dot, variables)):
        if names:
            variables[names[0]] = index
        found.append(_written(node.body, element, variables))
    return found


def _value(words: list[str], dot: Any, variables: dict[str, Any]) -> Any:
    value, rest = _call(list(words), dot, variables)
    if rest:
        raise ValueError(f"{' '.join(words)} is more than is covered")
    return value


def _call(words: list[str], dot: Any, variables: dict[str, Any]) -> tuple[Any, list[str]]:
    """A function and its operands, or one operand, up to the closing parenthesis."""
    name, arguments = words[0], []
    rest = words[1:] if name in FUNCTIONS else words
    while rest and rest[0] != ")":
        argument, rest = _operand(rest, dot, variables)
        arguments.append(argument)
    if name in FUNCTIONS:
        return FUNCTIONS[name](*arguments), rest
    if len(arguments) != 1:
        raise ValueError(f"{' '.join(words)} is more than is covered")
    return arguments[0], rest


def _operand(words: list[str], dot: Any, variables: dict[str, Any]) -> tuple[Any, list[str]]:
    word, rest = words[0], words[1:]
    if word == "(":
        value, rest = _call(rest, dot, variables)
        return value, rest[1:]
    if word.startswith('"'):
        return json.loads(word), rest
    if word.isdecimal():
        return int(word), rest
    if word.startswith("$."):
        return variables["$"][word[2:]], rest
    if word in variables:
        return variables[word], rest
    if word.startswith(".") and word[1:] in dot:
        return dot[word[1:]], rest
    raise ValueError(f"{word} is more than is covered")


FUNCTIONS: dict[str, Any] = {
    "eq": lambda left, right: left == right,
    "ne": lambda left, right: left != right,
    "and": lambda left, right: left and right,
    "len": len,
    "slice": lambda items, start: items[start:],
}
