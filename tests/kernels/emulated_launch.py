"""One launch of a compiled kernel on the PTX emulator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from compiled import Facts
from ptx_emulator import Launch, Memory, parse, run


class Compiled(Protocol):
    """A kernel and what is compiled into it."""

    @property
    def function(self) -> Any: ...
    def constants(self) -> dict[str, Any]: ...


def launch(
    variant: Compiled, facts: Facts, programs: int, num_warps: int, values: Mapping[str, Any], memory: Memory
) -> None:
    """So many programs with arguments by name: numbers, and buffers of the memory."""
    module = parse(facts.code)
    (function,) = module.kernels.values()
    constants = variant.constants()
    params = [values[name] for name in variant.function.arg_names if name not in constants]
    params += [0] * (len(function.params) - len(params))  # Triton's scratch pointers, unused here
    what = Launch(function.name, (programs,), (32 * num_warps,), params, dynamic_shared=facts.shared)
    run(module, what, memory, max_instructions=10**7)
