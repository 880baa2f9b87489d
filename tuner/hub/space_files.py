"""
Which files a Space of this app gets: what a clone of the project has and the page needs.

    space_files()                         path in the Space → file here
    space_readme(text, "anna/tuner", "t4-small")

A list of what goes, not of what stays: runs, uploads, environments and secrets lie beside the
project's files, and none of them may leave by a forgotten rule. Works without git.
"""

from pathlib import Path

import yaml

import tuner
from tuner.errors import HubError

PROJECT_ROOT = Path(tuner.__file__).resolve().parents[1]
FILES = ("app.py", "README.md", "LICENSE", "requirements.txt")
OPTIONAL = ("packages.txt", "CHANGELOG.md", "CONTRIBUTING.md")
# Folder → the kinds of file that are the project's own in it and below.
FOLDERS = {
    "tuner": "py css js svg md tsv txt jinja",
    "tuner/starter/model": "json jinja safetensors",
    "presets": "yaml jsonl",
    "docs": "md",
    "docs/images": "png",
}
FENCE = "---\n"
ZERO_GPU_PYTHON = "3.12.12"  # ZeroGPU runs this and 3.10.13 only, and Tuner needs 3.11 or newer
THUMBNAIL = "docs/images/fine-tune.png"


def space_files(root: Path = PROJECT_ROOT) -> dict[str, Path]:
    """The files of a Space, by their path in it.

    Raises:
        HubError: This is no whole copy of the project.
    """
    found = {name: root / name for name in (*FILES, *OPTIONAL) if (root / name).is_file()}
    if missing := [name for name in FILES if name not in found]:
        raise HubError(
            f"{missing[0]} is missing in {root.name}, so a Space made of it would not start. "
            "Deploy from a clone of the project."
        )
    for folder, kinds in FOLDERS.items():
        endings = {f".{kind}" for kind in kinds.split()}
        for path in sorted((root / folder).rglob("*")):
            inside = path.relative_to(root)
            if path.suffix in endings and _is_own(path, inside):
                found[inside.as_posix()] = path
    return found


def _is_own(path: Path, inside: Path) -> bool:
    """Whether it is a plain file, and nothing on the way to it is hidden or made by Python."""
    hidden = any(part.startswith((".", "__pycache__")) for part in inside.parts)
    return not hidden and not path.is_symlink() and path.is_file()


def front_matter(readme: str) -> tuple[dict[str, object], str]:
    """The settings at the top of a README, and the text below them.

    Raises:
        HubError: There are none.
    """
    head, fence, body = readme.removeprefix(FENCE).partition(f"\n{FENCE}")
    settings = yaml.safe_load(head) if fence and readme.startswith(FENCE) else None
    if not isinstance(settings, dict):
        raise HubError(
            "README.md has no settings of a Space at its top (a block between --- and ---). Take "
            "them from the project's own README.md."
        )
    return settings, body


def space_readme(readme: str, repo: str, hardware: str) -> str:
    """The project's README as the one of a certain Space."""
    settings, body = front_matter(readme)
    # The Hub takes a whole address only.
    settings["thumbnail"] = f"https://huggingface.co/spaces/{repo}/resolve/main/{THUMBNAIL}"
    if hardware.startswith("zero"):
        settings["python_version"] = ZERO_GPU_PYTHON
    head = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    return f"{FENCE}{head}{FENCE}{body}"
