"""
YAML as recipes are written; what would take a process down with it is refused.

    read_plain("lora: {r: 8}")

Recipes come from anywhere: a form, a file, a colleague, the Hub. A few lines of aliases stand for
gigabytes, nothing can write 3,000 lists in one another, and some tags make PyYAML itself stumble.
What a tag could run is no part of a SafeLoader anyway.
"""

from typing import Any

import yaml

DEEPEST = 20  # lists and groups inside one another; a recipe has three
LARGEST_BITS = 64  # of a whole number; Python cannot even write one of 4,300 digits


def read_plain(text: str) -> Any:
    """What the text stands for.

    Raises:
        yaml.YAMLError: It is no YAML, or more than a recipe needs.
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)


class _Loader(yaml.SafeLoader):
    """As the file's header says."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            name = self.peek_event().anchor
            raise self._refusal(f"*{name} stands for another part, which has to be written out")
        if self._depth == DEEPEST:
            raise self._refusal("there are too many lists or groups inside one another")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (AttributeError, KeyError, ValueError):  # !!timestamp x, !!bool x, 2026-02-30
            raise _no_value(node) from None
        if isinstance(value, int) and value.bit_length() > LARGEST_BITS:
            raise _no_value(node)
        return value

    def _refusal(self, problem: str) -> yaml.MarkedYAMLError:
        return yaml.MarkedYAMLError(problem=problem, problem_mark=self.peek_event().start_mark)


def _no_value(node: Any) -> yaml.MarkedYAMLError:
    problem = f"{str(node.value)[:40]} cannot be understood; put text in quotes"
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
