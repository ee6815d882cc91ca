"""Data sets named ``hf://...``: fetched from the Hugging Face hub and laid down as a file of the task's own form.

The file is kept, so that an error's line can be looked up, and made again whenever the data set is named.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastbert.data.errors import DataError
from fastbert.data.hub_forms import Classes, FileForm
from fastbert.data.samples import cache_directory
from fastbert.files import replaced
from fastbert.hub import hub_failure

SCHEME = "hf://"
_NAME = re.compile(r"hf://(?P<path>[\w.-]+(?:/[\w.-]+){0,2})(?::(?P<split>[\w.]+(?:\[[\d:%-]*\])?))?")


def local_file(name: str, form: FileForm, split: str) -> str:
    """``name`` itself, or the file that the data set ``hf://[owner/]name[/configuration][:split]`` is laid down in.

    Args:
        name: a path, or a data set's name. ``hf://a/b`` is the configuration ``b`` of the data set ``a`` where there is
            one, else the data set ``a/b``.
        form: see :class:`FileForm`.
        split: the split when the name has none. That of a name may be cut as ``datasets`` does: ``train[:1000]``.

    Raises:
        DataError: no such data set, configuration or split, a hub that cannot be reached (names need a network or a
            copy that ``datasets`` has kept), columns that the form cannot be made of, or no package ``datasets``.
    """
    if not name.startswith(SCHEME):
        return name
    match = _NAME.fullmatch(name)
    if match is None:
        raise DataError(f"{name} is no data set's name; allowed: hf://[owner/]name[/configuration][:split]")
    split = match["split"] or split
    dataset = _load(match["path"], split)
    file = cache_directory() / "hub" / f"{match['path'].replace('/', '--')}--{split}{form.suffix}"
    classes = {column: names for column in dataset.features if (names := _class_names(dataset.features[column]))}
    try:
        with replaced(file) as aside:
            form.write(aside, _named_rows(dataset, classes), classes)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    except KeyError as error:
        columns = ", ".join(dataset.column_names)
        raise DataError(f"{name} has no column {error}, which the task needs; it has {columns}") from error
    return str(file)


def _load(path: str, split: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{SCHEME}{path} needs the package datasets: pip install 'fastbert-kernels[hub]', or name a file"
        ) from error
    readings = _readings(path)
    for name, *_ in readings:
        if Path(name).exists():
            raise DataError(f"{SCHEME}{path}: {name} also exists here, which the package datasets would read instead")
    try:
        for reading in readings[:-1]:
            with contextlib.suppress(datasets.exceptions.DatasetNotFoundError):
                return datasets.load_dataset(*reading, split=split)
        return datasets.load_dataset(*readings[-1], split=split)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DataError(f"{SCHEME}{path}: the hub has no such data set that can be read") from error
    except (ValueError, RuntimeError) as error:  # an unknown configuration or split; a repository of code
        raise DataError(f"{SCHEME}{path}:{split}: {' '.join(str(error).split())}") from error
    except Exception as error:  # The hub's client raises its own, its HTTP library's and the system's errors.
        raise DataError(f"{SCHEME}{path} needs a network, and {hub_failure(error)}; or name a file") from error


def _readings(path: str) -> list[tuple[str, ...]]:
    """What a name may mean: a data set, and its configuration if it has one."""
    first, *rest = path.split("/")
    if len(rest) == 2:
        return [(f"{first}/{rest[0]}", rest[1])]
    return [(first, *rest), (path,)] if rest else [(path,)]


def _class_names(feature: Any) -> list[str] | None:
    """The names of a column of classes, or of lists of classes."""
    names = getattr(getattr(feature, "feature", feature), "names", None)
    return list(names) if names else None


def _named_rows(dataset: Any, classes: Classes) -> Iterator[dict[str, Any]]:
    from datasets.utils import tqdm

    for row in tqdm(dataset, desc="Laying down rows"):
        yield {column: _named(value, classes[column]) if column in classes else value for column, value in row.items()}


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(entry, names) for entry in value]
    return names[value] if value is not None and value >= 0 else None  # -1: no label
