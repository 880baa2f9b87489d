"""
The direction of imports (docs/ARCHITECTURE.md), read from the source: what is not in the table
below is not allowed. A new room needs a line here, and a reason.
"""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

SHOWN = (
    "errors problems plain_yaml quantities levers recipe schedule presets starter device "
    "base_models memory data checks service runs runs.events runs.store runs.launch runs.queue "
    "chat.client chat.protocol chat.voices chat.lineup chat.votes hub hub.publish hub.pull "
    "hub.saves hub.card hub.bundle export"
)

# Room → the rooms it may import, wherever in a file. A module is in the room with the longest
# name that it begins with. Every room may import itself; its parts only where they are named.
ALLOWED = {
    "": "",  # tuner/__init__.py, which is empty, so everyone may import it
    "__main__": "cli",
    "errors": "",
    "problems": "",
    "plain_yaml": "",
    "levers": "",
    "recipe": "errors problems plain_yaml levers",
    "schedule": "recipe",
    "presets": "errors problems recipe",
    "starter": "errors data",
    "device": "errors",
    "base_models": "errors recipe starter",
    "memory": "errors levers recipe schedule device base_models",
    "data": "errors recipe",
    "checks": "errors recipe device base_models memory data runs runs.store",
    # Actions as documents, for the shell, the page and its API.
    "service": "errors recipe device base_models memory data checks runs runs.store runs.launch "
    "runs.queue chat.client chat.lineup chat.voices",
    "quantities": "",
    # The run directory: names, states, atomic writes. Who does the training sees two parts of it.
    "runs": "errors recipe runs.events runs.handover",
    "runs.events": "errors runs",
    "runs.store": "errors recipe runs runs.events",
    "runs.launch": "errors recipe device runs runs.events runs.store runs.handover",
    # How a process that waits is told its run: known to both sides.
    "runs.handover": "",
    "runs.queue": "errors runs runs.launch runs.store",
    # A base model in memory, the same for who trains on it and who talks to it.
    "models": "errors recipe base_models",
    # The training process knows a run directory, not who started it or who is looking.
    "training": "errors levers recipe schedule device base_models models memory data runs.events "
    "runs.store runs.handover",
    # What is loaded beside a model in the playground's process, and what talks to that process.
    "chat": "errors recipe device base_models models data runs.events runs.store chat.voices "
    "chat.protocol",
    "chat.client": "errors device chat.voices chat.protocol chat.zero_gpu",
    # The same where a GPU exists in forks of the page only; alone in importing spaces.
    "chat.zero_gpu": "errors base_models chat chat.client chat.protocol chat.voices",
    # What page and shell need of it beside: plain data, who can answer, and what people thought.
    "chat.voices": "",
    "chat.protocol": "chat.voices",
    "chat.lineup": "errors recipe starter base_models runs runs.store chat.voices",
    "chat.votes": "errors runs runs.store",
    "hub": "errors recipe base_models runs runs.events runs.store",
    # Puts together what a push sends: an adapter as it is, or merged weights.
    "hub.publish": "errors runs.store hub hub.bundle hub.card export",
    # What is published of a run: its card, which tells of preset, base and votes, and its files.
    "hub.card": "errors recipe presets quantities starter base_models runs runs.events chat.votes "
    "hub hub.chat_template",
    "hub.bundle": "errors recipe runs runs.events hub hub.card",
    "hub.pull": "errors recipe base_models data runs runs.store hub",
    "hub.saves": "errors recipe runs hub hub.bundle",
    "hub.chat_template": "errors export",
    # A run as something else. What the page's process needs of it loads no model.
    "export": "errors recipe starter device data runs runs.store",
    # The process that merges: base and adapter in memory, as who trains and who talks has them.
    "export.merge": "errors recipe device base_models models data training chat runs.store export",
    # Both show everything that the engine can do, and train by starting a process.
    "cli": SHOWN,
    "ui": SHOWN,
}

# Imported at once, so nothing that they import at module level may be slow or need a GPU.
LIGHT = (
    "errors problems recipe schedule presets device base_models memory checks data.sources "
    "data.formats data.prepare service runs cli chat.client chat.voices chat.protocol "
    "chat.lineup chat.votes hub ui export.merged export.modelfile export.ollama_template "
    "export.go_template export.zip_stream export.script export.notebook"
).split()
# Installed where it works only: a Space brings the version that its GPUs understand.
GIVEN = {"spaces"}
HEAVY = {"torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes"}


@dataclass(frozen=True)
class Import:
    """One imported module: its full name, and whether it is imported as soon as the file is."""

    name: str
    at_once: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(REPOSITORY.glob("tuner/**/*.py"))}


@cache
def imports_of(module: str) -> tuple[Import, ...]:
    """What one of our modules imports. Imports for type checkers only are left out."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    return tuple(
        Import(name, at_once)
        for node, at_once in statements(tree)
        for name in imported_names(node, module)
    )


def statements(tree: ast.AST, at_once: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node, at_once
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from statements(node, at_once and not inside)


def imported_names(node: ast.AST, module: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        origin = absolute(node, module)
        for alias in node.names:
            submodule = f"{origin}.{alias.name}"
            yield submodule if submodule in MODULES else origin


def absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    is_package = MODULES[module].name == "__init__.py"
    package = module.split(".")[: len(module.split(".")) - node.level + is_package]
    return ".".join([*package, *filter(None, [node.module])])


def room_of(module: str) -> str:
    """The room of one of our modules; tuner/__init__.py is the room without a name."""
    inside = module.removeprefix("tuner").lstrip(".")
    rooms = [room for room in ALLOWED if is_within(inside, room)]
    assert rooms, f"{module} is in no room: add one to ALLOWED, with what it may import."
    return max(rooms, key=len)


def is_within(part: str, room: str) -> bool:
    return f"{part}.".startswith(f"{room}.")


def heavy_chain(module: str, seen: set[str]) -> list[str]:
    """How importing `module` comes to import something heavy, or nothing."""
    seen.add(module)
    for found in imports_of(module):
        if found.at_once and found.name.split(".")[0] in HEAVY:
            return [module, found.name]
        if found.at_once and found.name in MODULES and found.name not in seen:
            chain = heavy_chain(found.name, seen)
            if chain:
                return [module, *chain]
    return []


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    room = room_of(module)
    allowed = {"", room, *ALLOWED[room].split()}
    ours = [found.name for found in imports_of(module) if found.name in MODULES]
    assert [name for name in ours if room_of(name) not in allowed] == []


@pytest.mark.parametrize("module", MODULES)
def test_only_the_page_imports_gradio(module):
    imported = {found.name.split(".")[0] for found in imports_of(module)}
    assert "gradio" not in imported or room_of(module) == "ui"


@pytest.mark.parametrize("module", MODULES)
def test_only_the_playground_on_zero_gpu_imports_spaces(module):
    imported = [found.at_once for found in imports_of(module) if found.name == "spaces"]
    assert imported == ([False] if module == "tuner.chat.zero_gpu" else [])


@pytest.mark.parametrize(
    "module",
    [name for name in MODULES if any(is_within(name, f"tuner.{room}") for room in LIGHT)],
)
def test_the_control_side_loads_no_model_library_at_import(module):
    assert heavy_chain(module, set()) == []


def test_listing_runs_imports_neither_torch_nor_transformers(tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", "tuner", "runs", "--json"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        command, check=False, cwd=tmp_path, env=environment, capture_output=True, timeout=60
    )
    errors = done.stderr.decode()
    assert done.returncode == 0, errors[-2000:]
    json.loads(done.stdout)
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in errors.splitlines()}
    assert "tuner" in imported
    assert not imported & (HEAVY | {"gradio"})


def test_everything_imported_is_pinned():
    requirements = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    pinned = {
        normal(name) for name in re.findall(r"^([\w-]+)==[\d.]+$", requirements, re.MULTILINE)
    }
    imported = {found.name.split(".")[0] for name in MODULES for found in imports_of(name)}
    foreign = imported - set(sys.stdlib_module_names) - {"tuner", "tests"} - GIVEN
    packages = packages_distributions()
    missing = {name for name in foreign if not {normal(p) for p in packages[name]} & pinned}
    assert missing == set()


def normal(package: str) -> str:
    return package.lower().replace("_", "-")


def test_the_reader_of_imports_sees_all_kinds_of_them(monkeypatch, tmp_path):
    source = (
        "import torch.nn\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import gradio\n"
        "try:\n    from tuner import recipe\nexcept ImportError:\n    pass\n"
        "class A:\n    from .. import errors\n"
        "def later():\n    import peft\n"
    )
    path = tmp_path / "seen.py"
    path.write_text(source)
    monkeypatch.setitem(MODULES, "tuner.runs.seen", path)
    assert imports_of("tuner.runs.seen") == (
        Import("torch.nn", True),
        Import("typing", True),
        Import("tuner.recipe", True),
        Import("tuner.errors", True),
        Import("peft", False),
    )


def test_a_part_of_a_room_may_be_stricter_than_the_room():
    assert room_of("tuner.runs.store") == "runs.store"
    assert room_of("tuner.runs.names") == "runs"
    assert room_of("tuner.runs") == "runs"
    assert room_of("tuner") == ""
