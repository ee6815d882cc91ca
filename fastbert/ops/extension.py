"""The compiled extension, if it is there. Every operator that has a kernel asks here and nowhere else."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from types import ModuleType


def _load() -> tuple[ModuleType | None, str | None]:
    """The extension, or None and the reason. One that is there but broken is also warned of: the rest still works."""
    if importlib.util.find_spec("fastbert._C") is None:
        return None, "fastbert._C is not built"
    try:
        return importlib.import_module("fastbert._C"), None
    except ImportError as error:
        warnings.warn(
            f"fastbert._C cannot be imported, so slower code runs in its place: {error}", RuntimeWarning, stacklevel=2
        )
        return None, str(error)


compiled, error = _load()
