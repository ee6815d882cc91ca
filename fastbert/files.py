"""Writing that leaves either the whole new thing or the whole old one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_HASH_BLOCK = 1 << 22


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A file to write beside ``path`` that takes its place when the block ends, or vanishes on an error."""
    aside = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield aside
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def files_replaced(directory: Path) -> Iterator[Path]:
    """A directory to fill whose files move into ``directory`` when the block ends, or vanish on an error.

    All are complete before any is put in place, in reverse order of their names, so a model's weights come before the
    configuration that announces them. What else lies in ``directory`` stays.
    """
    directory.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".saving-", dir=directory))  # inside: renaming never crosses a file system
    try:
        yield aside
        written = sorted(aside.iterdir(), reverse=True)
        for path in written:
            _flush(path)
        for path in written:
            os.replace(path, directory / path.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def written_aside(directory: Path) -> Iterator[Path]:
    """A directory to fill beside ``directory`` that takes its place when the block ends, or vanishes on an error."""
    aside = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        yield aside
        for path in aside.iterdir():
            _flush(path)
        old = directory.with_name(f".{directory.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if directory.exists():
            os.replace(directory, old)
        os.replace(aside, directory)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


@contextlib.contextmanager
def made_once(directory: Path) -> Iterator[Path]:
    """A directory to fill that becomes ``directory`` when the block ends, or vanishes on an error.

    For content that its name determines: where another process was first, its copy is as good and stays.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as scratch:
        aside = Path(scratch) / directory.name
        aside.mkdir()
        yield aside
        try:
            os.rename(aside, directory)
        except OSError:
            if not directory.is_dir():
                raise


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    # A rename may reach the disk before the content does; after a power cut the file would be there and empty.
    with path.open("rb") as file:
        os.fsync(file.fileno())
