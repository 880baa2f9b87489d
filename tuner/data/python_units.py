"""
Functions and classes of Python files, through `ast`.
"""

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

MIN_LINES = 2  # of code, the documentation not counted
MAX_LINES = 200
# A longer class becomes one unit a method; a whole class and its methods would repeat each other.
MAX_CLASS_LINES = 80
MAX_SIGNATURE = 240
MAX_SUMMARY = 400

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Unparsable(ValueError):
    """A file that its language's parser refuses."""


@dataclass(frozen=True)
class CodeUnit:
    """A function, method or class.

    Attributes:
        what: "function", "method" or "class", or the language's own word.
        name: With the class it belongs to: "Cart.total".
        signature: On one line, without its body: "def total(self) -> int".
        summary: First paragraph of its documentation, or "".
        source: As written, but not indented.
        line: 1-based line of the file where it starts.
    """

    what: str
    name: str
    signature: str
    summary: str
    source: str
    line: int


def python_units(text: str) -> Iterator[CodeUnit]:
    """Functions and classes of one file, nested functions staying inside theirs.

    Raises:
        Unparsable: Not Python 3.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an invalid escape sequence is its author's business
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise Unparsable(str(error)) from None
    yield from _units(tree.body, text.splitlines(), "")


def summary_of(documentation: str) -> str:
    """First paragraph on one line, cut between words."""
    paragraph = documentation.strip().split("\n\n")[0]
    return textwrap.shorten(paragraph, MAX_SUMMARY, placeholder=" …")


def one_line(signature: str) -> str:
    """White space collapsed, also inside brackets that were broken over lines."""
    line = " ".join(signature.split())
    line = re.sub(r"([(\[{]) | (?=[)\]}])", r"\1", line)
    return textwrap.shorten(line.replace(",)", ")"), MAX_SIGNATURE, placeholder=" …")


def _units(body: list[ast.stmt], lines: list[str], owner: str) -> Iterator[CodeUnit]:
    for node in body:
        if isinstance(node, ast.If | ast.Try):  # `if TYPE_CHECKING`, `try: import`
            yield from _units(node.body, lines, owner)
        elif isinstance(node, ast.ClassDef) and _length(node) > MAX_CLASS_LINES:
            yield from _units(node.body, lines, f"{owner}{node.name}.")
        elif isinstance(node, Definition) and _is_worth_it(node):
            yield _unit(node, lines, owner)


def _unit(node: Definition, lines: list[str], owner: str) -> CodeUnit:
    start, end = _start(node), node.end_lineno or node.lineno
    source = textwrap.dedent("\n".join(lines[start - 1 : end])).strip("\n")
    what = "method" if owner else "function"
    return CodeUnit(
        what="class" if isinstance(node, ast.ClassDef) else what,
        name=owner + node.name,
        signature=_signature(node),
        summary=summary_of(ast.get_docstring(node) or ""),
        source=source,
        line=start,
    )


def _signature(node: Definition) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in [*node.bases, *node.keywords])
        return one_line(f"class {node.name}({bases})" if bases else f"class {node.name}")
    start = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return one_line(f"{start} {node.name}({ast.unparse(node.args)}){returns}")


def _is_worth_it(node: Definition) -> bool:
    """Long enough to teach something, short enough to fit, and with a body of its own."""
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    if not body or all(_is_empty(statement) for statement in body):
        return False
    documentation = _length(node.body[0]) if len(body) < len(node.body) else 0
    return _length(node) - documentation >= MIN_LINES and _length(node) <= MAX_LINES


def _is_empty(node: ast.stmt) -> bool:
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)  # `...`
    return isinstance(node, ast.Pass)


def _start(node: Definition) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _length(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1
