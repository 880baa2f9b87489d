"""
Functions and types of files in languages other than Python, through tree-sitter's grammars.

The grammars are wheels of their own (tree-sitter-go, …) and work offline; the one package that
bundles them all downloads parsers when it runs. What counts as a function and what as a type is
named per language by the grammar's node types.
"""

import importlib
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from tree_sitter import Language, Node, Parser

from tuner.data.python_units import (
    MAX_CLASS_LINES,
    MAX_LINES,
    MIN_LINES,
    CodeUnit,
    Unparsable,
    one_line,
    summary_of,
)

MAX_DEPTH = 60  # of nodes; code that people write stays far below

_SCRIPT_FUNCTIONS = "function_declaration generator_function_declaration method_definition"
_SCRIPT_TYPES = (
    "class_declaration abstract_class_declaration interface_declaration enum_declaration"
)
_C_TYPES = "struct_specifier union_specifier enum_specifier class_specifier"


@dataclass(frozen=True)
class Grammar:
    """Where a grammar lives, and its node types for functions and types."""

    module: str
    functions: frozenset[str]
    types: frozenset[str]
    entry: str = "language"


def _grammar(module: str, functions: str, types: str, entry: str = "language") -> Grammar:
    return Grammar(
        f"tree_sitter_{module}", frozenset(functions.split()), frozenset(types.split()), entry
    )


GRAMMARS = {
    "JavaScript": _grammar("javascript", _SCRIPT_FUNCTIONS, _SCRIPT_TYPES),
    "TypeScript": _grammar(
        "typescript",
        _SCRIPT_FUNCTIONS,
        f"{_SCRIPT_TYPES} type_alias_declaration",
        "language_typescript",
    ),
    "TSX": _grammar(
        "typescript", _SCRIPT_FUNCTIONS, f"{_SCRIPT_TYPES} type_alias_declaration", "language_tsx"
    ),
    "Go": _grammar("go", "function_declaration method_declaration", "type_declaration"),
    "Rust": _grammar("rust", "function_item", "struct_item enum_item trait_item union_item"),
    "Java": _grammar(
        "java",
        "method_declaration constructor_declaration",
        "class_declaration interface_declaration enum_declaration record_declaration",
    ),
    "C": _grammar("c", "function_definition", f"{_C_TYPES} type_definition"),
    "C++": _grammar("cpp", "function_definition", f"{_C_TYPES} type_definition"),
    "C#": _grammar(
        "c_sharp",
        "method_declaration constructor_declaration local_function_statement",
        "class_declaration interface_declaration struct_declaration enum_declaration "
        "record_declaration",
    ),
    "Ruby": _grammar("ruby", "method singleton_method", "class"),
    "PHP": _grammar(
        "php",
        "function_definition method_declaration",
        "class_declaration interface_declaration trait_declaration enum_declaration",
        "language_php",
    ),
}
_WRAPPERS = {"export_statement", "template_declaration"}
_VARIABLES = {"lexical_declaration", "variable_declaration"}
_FUNCTION_VALUES = {"arrow_function", "function_expression", "generator_function"}
_COMMENTS = {"comment", "line_comment", "block_comment"}
_ATTACHED = _COMMENTS | {"attribute_item"}
_COMMENT_MARK = re.compile(r"^\s*(/\*+!?|\*+/|\*|///?!?|#+)\s?|\s*\*+/\s*$|</?\w[^>]*>")


def tree_units(text: str, language: str) -> Iterator[CodeUnit]:
    """Functions and types of one file; functions within functions stay inside theirs.

    Args:
        language: A key of GRAMMARS.

    Raises:
        Unparsable: Errors in it, and nothing that is free of them.
    """
    root = _parser(language).parse(text.encode()).root_node
    found = False
    for unit in _walk(root, GRAMMARS[language], "", 0):
        found = True
        yield unit
    if root.has_error and not found:
        raise Unparsable(f"not {language}")


@cache
def _parser(language: str) -> Parser:
    grammar = GRAMMARS[language]
    entry = getattr(importlib.import_module(grammar.module), grammar.entry)
    return Parser(Language(entry()))


def _walk(node: Node, grammar: Grammar, owner: str, depth: int) -> Iterator[CodeUnit]:
    if depth > MAX_DEPTH:
        return
    for outer in node.named_children:
        inner = _unwrapped(outer)
        if _is_function(inner, grammar):
            yield from _unit(outer, inner, owner, "method" if owner else "function")
            continue
        is_type = inner.type in grammar.types
        if is_type and _lines(inner) <= MAX_CLASS_LINES:
            yield from _unit(outer, inner, owner, _word(inner.type))
            continue
        scope = _name(inner) if is_type else _implemented(inner)
        yield from _walk(inner, grammar, f"{scope}." if scope else owner, depth + 1)


def _unwrapped(node: Node) -> Node:
    """The declaration inside `export` or `template <…>`."""
    if node.type in _WRAPPERS and node.named_children:
        return node.child_by_field_name("declaration") or node.named_children[-1]
    return node


def _is_function(node: Node, grammar: Grammar) -> bool:
    return node.type in grammar.functions or _function_variable(node) is not None


def _function_variable(node: Node) -> Node | None:
    """The declarator of `const name = () => …`."""
    if node.type not in _VARIABLES or node.named_child_count != 1:
        return None
    declarator = node.named_children[0]
    value = declarator.child_by_field_name("value")
    return declarator if value is not None and value.type in _FUNCTION_VALUES else None


def _unit(outer: Node, inner: Node, owner: str, what: str) -> Iterator[CodeUnit]:
    name, body = _name(inner), _body(inner)
    lacks_body = body is None and (what in ("function", "method") or inner.type in _C_TYPES)
    if inner.has_error or not name or lacks_body:
        return
    if not MIN_LINES <= _lines(inner) <= MAX_LINES:
        return
    attached = _attached(outer)
    first = attached[0] if attached else outer
    documentation = "".join(_text(node) + "\n" for node in attached if node.type in _COMMENTS)
    yield CodeUnit(
        what=what,
        name=owner + name,
        signature=_signature(outer, body),
        summary=_summary(documentation),
        source=_source(first, outer),
        line=first.start_point.row + 1,
    )


def _name(node: Node) -> str:
    """The `name` field, or the innermost declarator where C and C++ hide it."""
    declarator = _function_variable(node)
    if node.type == "type_declaration" and node.named_child_count == 1:  # Go
        declarator = node.named_children[0]
    found: Node | None = declarator or node
    while found is not None:
        name = found.child_by_field_name("name")
        if name is not None:
            return _text(found if found.type == "qualified_identifier" else name)[:80]
        inner = found.child_by_field_name("declarator")
        if inner is None:
            return _text(found)[:80] if found.type.endswith("identifier") else ""
        found = inner
    return ""


def _body(node: Node) -> Node | None:
    declarator = _function_variable(node)
    holder = declarator.child_by_field_name("value") if declarator else node
    return holder.child_by_field_name("body") if holder else None


def _implemented(node: Node) -> str:
    """The type that a Rust `impl` block is for."""
    type_node = node.child_by_field_name("type") if node.type == "impl_item" else None
    return _text(type_node)[:80] if type_node else ""


def _signature(outer: Node, body: Node | None) -> str:
    text = _text(outer)
    if body is None:
        return one_line(text.split("{")[0].split("\n")[0])
    head = (outer.text or b"")[: body.start_byte - outer.start_byte]
    return one_line(head.decode(errors="replace").rstrip().removesuffix("{"))


def _attached(node: Node) -> list[Node]:
    """Comments and attributes directly above, in order."""
    found: list[Node] = []
    below, above = node, node.prev_sibling
    if above is None and node.parent is not None and node.parent.type == "body_statement":
        above = node.parent.prev_sibling  # Ruby puts the first comment outside of the body
    while above is not None and above.type in _ATTACHED:
        before = above.prev_sibling
        shares_a_line = before is not None and _last_row(before) == above.start_point.row
        if _last_row(above) + 1 < below.start_point.row or shares_a_line:
            break
        found.insert(0, above)
        below, above = above, before
    return found


def _summary(documentation: str) -> str:
    lines = []
    for line in documentation.split("\n"):
        line = _COMMENT_MARK.sub("", line).strip()
        if line.startswith(("@", "\\param")):
            break  # the parameters are in the signature
        lines.append(line)
    return summary_of("\n".join(lines).strip("\n"))


def _source(first: Node, last: Node) -> str:
    following = last.next_sibling
    if following is not None and following.type == ";":  # behind a struct of C
        last = following
    root = first
    while root.parent is not None:
        root = root.parent
    text = (root.text or b"")[first.start_byte - root.start_byte : last.end_byte - root.start_byte]
    indent = " " * first.start_point.column
    return textwrap.dedent(indent + text.decode(errors="replace").rstrip()).strip("\n")


def _text(node: Node) -> str:
    return (node.text or b"").decode(errors="replace").rstrip("\n")


def _last_row(node: Node) -> int:
    """Some comments end with their line break, at the start of the next row."""
    end = node.end_point
    return end.row - 1 if end.column == 0 and end.row > node.start_point.row else end.row


def _lines(node: Node) -> int:
    return node.end_point.row - node.start_point.row + 1


def _word(node_type: str) -> str:
    """`abstract_class_declaration` → class."""
    words = "class interface enum struct union trait record"
    return next((word for word in words.split() if word in node_type), "type")
