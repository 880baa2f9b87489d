"""A code repository becomes instructions and sources: its own code, whole, and nothing else's."""

import ast
import textwrap

import pytest

from tests.data.written import read, write_zip
from tuner.data.code_files import LANGUAGE_OF_EXTENSION, is_generated
from tuner.data.prepare import prepare_dataset
from tuner.data.python_units import python_units
from tuner.data.tree_units import GRAMMARS, tree_units
from tuner.errors import DatasetError
from tuner.recipe import DatasetSettings

SHOP = '''
import math


@cached
def total(items: list[Item], *, net: bool = False) -> float:
    """Add up what a cart costs.

    Long explanation.
    """
    return sum(item.price for item in items)


class Cart:
    """What a customer wants."""

    def add(self, item):
        self.items.append(item)
        return self


def stub(): ...


if TYPE_CHECKING:
    async def later(
        one,
        two,
    ):
        await one
        return two
'''


def units(text):
    return {unit.name: unit for unit in python_units(text)}


def test_functions_and_classes_of_python_are_found_with_what_describes_them():
    found = units(SHOP)
    assert list(found) == ["total", "Cart", "later"]
    total = found["total"]
    assert total.signature == "def total(items: list[Item], *, net: bool=False) -> float"
    assert total.summary == "Add up what a cart costs."
    assert total.source.startswith("@cached\ndef total(")
    assert total.line == 5
    assert found["later"].signature == "async def later(one, two)"
    assert found["later"].source.startswith("async def later(\n    one,")
    assert found["Cart"].what == "class"


def test_a_long_class_is_taken_method_by_method_and_nothing_is_in_two_rows():
    methods = [f"def m{n}(self):\n    x = {n}\n    return x\n" for n in range(40)]
    text = "class Long:\n" + textwrap.indent("\n".join(methods), "    ")
    found = units(text)
    assert len(found) == 40
    assert found["Long.m3"].what == "method"
    assert found["Long.m3"].source == methods[3].strip()


@pytest.mark.parametrize(
    "text",
    [
        "def f(): return 1",
        'def f():\n    """Only words,\n    many of them."""\n',
        "def f():\n    pass\n",
        "def f():\n" + "    x = 1\n" * 300,
        "x = lambda: 1",
    ],
)
def test_what_is_tiny_empty_or_huge_is_left_out(text):
    assert units(text) == {}


def test_every_source_of_this_project_parses_by_itself(repository):
    found = [
        unit
        for path in (repository / "tuner" / "data").glob("*.py")
        for unit in python_units(path.read_text(encoding="utf-8"))
    ]
    assert len(found) > 100
    for unit in found:
        ast.parse(unit.source)


LANGUAGES = {
    "JavaScript": (
        "/**\n * Adds two numbers.\n * @param a one\n */\n"
        "export const add = (a, b) => {\n  return a + b;\n};\n"
        "function half(x) {\n  return x / 2;\n}\n",
        {
            "add": ("Adds two numbers.", "export const add = (a, b) =>"),
            "half": ("", "function half(x)"),
        },
    ),
    "TypeScript": (
        "// A point.\nexport interface Point {\n  x: number;\n}\n"
        "namespace N {\n  export function norm(p: Point): number {\n    return p.x;\n  }\n}\n",
        {
            "Point": ("A point.", "export interface Point"),
            "norm": ("", "export function norm(p: Point): number"),
        },
    ),
    "TSX": (
        "export function View(props: Props) {\n  return <b>{props.name}</b>;\n}\n",
        {"View": ("", "export function View(props: Props)")},
    ),
    "Go": (
        "package shop\n\n// Total adds up.\nfunc (c *Cart) Total(net bool) int {\n\treturn 1\n}\n\n"
        "// Cart holds items.\ntype Cart struct {\n\tItems []int\n}\n",
        {
            "Total": ("Total adds up.", "func (c *Cart) Total(net bool) int"),
            "Cart": ("Cart holds items.", "type Cart struct"),
        },
    ),
    "Rust": (
        "/// A cart.\n#[derive(Debug)]\npub struct Cart {\n    items: Vec<i32>,\n}\n\n"
        "impl Cart {\n    /// Adds up.\n    pub fn total(&self) -> i32 {\n        1\n    }\n}\n",
        {
            "Cart": ("A cart.", "pub struct Cart"),
            "Cart.total": ("Adds up.", "pub fn total(&self) -> i32"),
        },
    ),
    "Java": (
        "package a;\n/** A cart. */\n"
        "public class Cart {\n  int total(int a) {\n    return a;\n  }\n}\n",
        {"Cart": ("A cart.", "public class Cart")},
    ),
    "C": (
        "int near = 1; // not about add\n"
        "/* Adds. */\nstatic int *add(int a,\n                int b)\n{\n"
        "  return 0;\n}\nstruct point {\n  int x;\n};\nint declared(int a,\n  int b);\n",
        {"add": ("Adds.", "static int *add(int a, int b)"), "point": ("", "struct point")},
    ),
    "C++": (
        "namespace n {\n// Larger.\ntemplate <typename T>\nT max(T a, T b) {\n  return a;\n}\n"
        "int A::k() const {\n  return 2;\n}\n}\n",
        {
            "max": ("Larger.", "template <typename T> T max(T a, T b)"),
            "A::k": ("", "int A::k() const"),
        },
    ),
    "C#": (
        "namespace N {\n  /// <summary>A cart.</summary>\n  public class Cart {\n"
        "    public int Total() { return 1; }\n  }\n}\n",
        {"Cart": ("A cart.", "public class Cart")},
    ),
    "Ruby": (
        "module Shop\n  # Adds up.\n  def total(items)\n    items.sum\n  end\nend\n",
        {"total": ("Adds up.", "def total(items)")},
    ),
    "PHP": (
        "<?php\n/** Adds up. */\nfunction total(array $items): int {\n  return 1;\n}\n",
        {"total": ("Adds up.", "function total(array $items): int")},
    ),
}


@pytest.mark.parametrize("language", GRAMMARS)
def test_every_language_gives_functions_with_their_documentation_and_signature(language):
    text, expected = LANGUAGES[language]
    found = {unit.name: unit for unit in tree_units(text, language)}
    assert {name: (u.summary, u.signature) for name, u in found.items()} == expected
    lines = text.split("\n")
    for unit in found.values():
        assert lines[unit.line - 1].strip() == unit.source.split("\n")[0].strip()
        assert all(line.strip() in text for line in unit.source.split("\n"))


def test_every_known_extension_has_a_splitter():
    assert set(LANGUAGE_OF_EXTENSION.values()) == {"Python", *GRAMMARS}


def test_the_semicolon_behind_a_struct_and_the_comment_above_belong_to_it():
    [unit] = tree_units("// P\nstruct p {\n  int x;\n};\n", "C")
    assert unit.source == "// P\nstruct p {\n  int x;\n};"


def test_a_long_class_of_another_language_is_taken_method_by_method():
    methods = "".join(f"  int m{n}() {{\n    return {n};\n  }}\n" for n in range(40))
    found = list(tree_units(f"class Long {{\n{methods}}}\n", "Java"))
    assert [unit.name for unit in found[:2]] == ["Long.m0", "Long.m1"]
    assert found[0].source == "int m0() {\n  return 0;\n}"
    assert found[0].what == "method"


def test_a_broken_function_is_left_out_and_its_neighbours_stay():
    text = "function good(a) {\n  return a;\n}\nfunction bad(a {\n  return (;\n}\n"
    assert [unit.name for unit in tree_units(text, "JavaScript")] == ["good"]


GOOD = "def total(items):\n    return sum(items)\n"
LEFT_OUT = [
    "tests/test_shop.py",
    "test_shop.py",
    "shop_test.go",
    "app.spec.ts",
    "conftest.py",
    "src/ShopTest.java",
    "node_modules/left/pad.js",
    "vendor/lib.go",
    "a/third_party/lib.py",
    "venv/lib/site-packages/x.py",
    ".venv/x.py",
    "build/shop.py",
    "dist/app.js",
    "shop_pb2.py",
    "app.min.js",
    "api.generated.ts",
    "types.d.ts",
    ".github/hook.py",
    "README.md",
    "picture.png",
]


def test_only_code_of_its_own_is_read(tmp_path):
    files: dict[str, str | bytes] = dict.fromkeys(LEFT_OUT, GOOD)
    files |= {
        "shop.py": GOOD,
        "gen.py": "# Code generated by protoc. DO NOT EDIT.\n" + GOOD,
        "says.py": '"""Scores text generated by the model."""\n\n' + GOOD,
        "huge.py": GOOD + "# " + "x" * 600_000,
        "broken.py": "def f(:\n",
        "latin.py": "# caf\xe9\n".encode("latin-1"),
    }
    rows, source = read(write_zip(tmp_path / "shop.zip", files))
    assert {row.file for row in rows} == {"shop.py", "says.py"}
    assert "2 functions and classes from 2 files (2 in Python)" in source.notes[-2]
    assert "2 files could not be parsed and are left out: broken.py, latin.py" in source.notes[-1]


@pytest.mark.parametrize(
    ("text", "generated"),
    [
        ("// Code generated by stringer; DO NOT EDIT.\npackage x", True),
        ("# This file is automatically generated by make\nx = 1", True),
        ("/* @generated */", True),
        ("var a=1;" * 500, True),
        ('"""Text that was generated by a model is scored here."""', False),
        ("x = 1\n" * 100, False),
    ],
)
def test_generated_code_gives_itself_away(text, generated):
    assert is_generated(text) == generated


def test_a_repository_without_code_of_its_own_says_so(tmp_path):
    path = write_zip(tmp_path / "docs.zip", {"tests/test_a.py": GOOD, "README.md": "# x"})
    with pytest.raises(DatasetError, match=r"docs\.zip holds no code of its own among its 2 files"):
        read(path, kind="repository")


def test_code_without_a_function_says_so(tmp_path):
    with pytest.raises(DatasetError, match="no function or class was found in its 1 files"):
        read(write_zip(tmp_path / "x.zip", {"settings.py": "DEBUG = True\n"}))


def test_a_repository_is_prepared_as_instructions_that_vary_but_never_change(tmp_path):
    functions = "\n\n".join(
        f'def f{n}(x):\n    """Do thing {n}."""\n    y = x + {n}\n    return y' for n in range(40)
    )
    path = write_zip(tmp_path / "shop.zip", {"shop/things.py": functions})
    report = prepare_dataset(DatasetSettings(source=str(path)), "sft", tmp_path / "data")
    assert report["source"] == "code repository shop.zip"
    assert report["recognised"]["format"] == "code"
    assert report["recognised"]["reason"].startswith("Functions and classes became rows")
    assert report["train_rows"] + report["eval_rows"] == 40
    first = [row.values for row in read(path)[0]]
    assert first == [row.values for row in read(path)[0]]
    assert len({row["instruction"].split("f")[0] for row in first}) > 2
    for n, row in enumerate(first):
        assert f"f{n}" in row["instruction"]
        assert f"Do thing {n}." in row["instruction"]
        assert row["output"].startswith(f"def f{n}(x):")
