"""The kernels over rows as they run on an sm_80 GPU: Triton's PTX for it, executed by the PTX emulator.

What is unwritten may not be read, and a result that was not written is an error: that is the emulator's own doing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from emulated_launch import launch
from ptx_emulator import Memory
from row_variants import RowVariant, compiled


def execute(
    variant: RowVariant,
    programs: int,
    arguments: Mapping[str, np.ndarray | float],
    results: Mapping[str, tuple[type[np.generic], tuple[int, ...]]],
) -> dict[str, np.ndarray]:
    """One launch.

    Args:
        variant: the kernel.
        programs: of the grid.
        arguments: what is read, bfloat16 as uint16, and the numbers.
        results: type and shape of what is written.
    """
    memory = Memory()
    values = {name: memory.upload(x) if isinstance(x, np.ndarray) else x for name, x in arguments.items()}
    values |= {name: memory.empty(int(np.prod(shape)) * np.dtype(t).itemsize) for name, (t, shape) in results.items()}
    launch(variant, compiled(variant), programs, variant.tile()[1], values, memory)
    return {name: memory.read(values[name], t, shape) for name, (t, shape) in results.items()}
