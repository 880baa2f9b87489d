"""
Many files at once: a zip archive, or a folder.

A zip's members are read in place; nothing is extracted, so a name like ../../etc/passwd could do
no harm, and is refused all the same, because an archive made by an honest tool has none. Archives
within archives, links and system clutter are left out, and that is said.
"""

import stat
import struct
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from tuner.data.blobs import Blob, checked, local_blob, refuse_bomb
from tuner.errors import DatasetError

MAX_FILES = 100_000
_ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".zst", ".jar", ".whl")
# What zipfile raises on damaged archives and on compression that it does not know.
_DAMAGE = (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, struct.error)
_OFFICE = {
    "xl/workbook.xml": "an Excel workbook. Save the sheet as CSV (UTF-8)",
    "word/document.xml": "a Word document. Save it as plain text",
    "ppt/presentation.xml": "a PowerPoint file. Save its text as .txt",
    "content.xml": "an OpenDocument file. Save a table as CSV, a document as plain text",
}


def is_zip(path: Path) -> bool:
    """Whether the content, whatever the name, is a zip archive; a damaged one counts."""
    with path.open("rb") as stream:
        magic = stream.read(4)
    return magic in (b"PK\x03\x04", b"PK\x05\x06") or path.suffix.lower() == ".zip"


def zip_blobs(path: Path) -> tuple[list[Blob], list[str]]:
    """The files of a zip, readable in place, in the order of the archive.

    Returns:
        The files, and sentences about what is left out.

    Raises:
        DatasetError: Damaged, protected by a password, an Office file, a bomb, or names that lead
            out of the archive.
    """
    archive = _open_zip(path)
    members = [member for member in archive.infolist() if not member.is_dir()]
    _refuse_office(path.name, members)
    _refuse_unsafe(path, members)
    blobs, nested = [], []
    for member in members:
        if _is_link(member) or is_clutter(member.filename):
            continue
        if member.filename.lower().endswith(_ARCHIVES):
            nested.append(member.filename)
            continue
        open_member = partial(_open_member, archive, member)
        blobs.append(Blob(member.filename, member.file_size, open_member))
    return blobs, _nested_note(path.name, nested)


def folder_blobs(folder: Path) -> tuple[list[Blob], list[str]]:
    """The files of a folder and its subfolders, by name; links are not followed.

    Raises:
        DatasetError: More than MAX_FILES.
    """
    blobs, nested = [], []
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix().encode(errors="replace").decode()
        if name.lower().endswith(_ARCHIVES):
            nested.append(name)
        else:
            blobs.append(local_blob(path, name))
        if len(blobs) > MAX_FILES:
            raise DatasetError(
                f"{folder.name} holds more than {MAX_FILES:,} files. Choose a folder inside it."
            )
    return blobs, _nested_note(folder.name, nested)


def is_clutter(name: str) -> bool:
    """Hidden files and folders, and what macOS adds to archives."""
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _walk(folder: Path) -> Iterator[Path]:
    # Hidden and dependency folders are pruned here: walking a node_modules takes minutes.
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or path.name.startswith(".") or path.name == "node_modules":
            continue
        if path.is_dir():
            yield from _walk(path)
        elif path.is_file():
            yield path


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise DatasetError(
            f"{path.name} is not a readable zip archive: damaged or cut off ({str(error)[:80]}). "
            "Pack and upload it again."
        ) from None


def _open_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> IO[bytes]:
    try:
        stream = archive.open(member)
    except _DAMAGE as error:
        raise DatasetError(
            f"{member.filename[:200]} cannot be unpacked: {str(error)[:80]}. "
            "Pack the archive again as plain zip."
        ) from None
    return checked(stream, member.filename, member.compress_size)


def _refuse_office(name: str, members: list[zipfile.ZipInfo]) -> None:
    names = {member.filename for member in members}
    for marker, what in _OFFICE.items():
        if marker in names and ({"[Content_Types].xml", "mimetype"} & names):
            raise DatasetError(f"{name} is {what}.")


def _refuse_unsafe(path: Path, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MAX_FILES:
        raise DatasetError(
            f"{path.name} holds {len(members):,} files, more than {MAX_FILES:,}. "
            "Pack only the data."
        )
    for member in members:
        # The original spelling: zipfile already turns backslashes around and cuts at a NUL.
        if _leads_out(member.orig_filename):
            raise DatasetError(
                f"{path.name} holds a file named {member.orig_filename[:80]!r}, which leads out of "
                "the archive. Pack it again from inside its folder."
            )
        if member.flag_bits & 1:
            raise DatasetError(
                f"{path.name} is protected by a password. Pack it again without one."
            )
    packed = path.stat().st_size
    refuse_bomb(path.name, packed, sum(member.file_size for member in members))


def _leads_out(name: str) -> bool:
    name = name.replace("\\", "/")
    return name.startswith("/") or name[1:3] == ":/" or ".." in name.split("/") or "\x00" in name


def _is_link(member: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(member.external_attr >> 16)


def _nested_note(name: str, nested: list[str]) -> list[str]:
    if not nested:
        return []
    more = f" and {len(nested) - 1} more" if len(nested) > 1 else ""
    return [f"{name}: archives inside it are left out ({nested[0]}{more})."]
