"""Kernels compiled ahead of time, without a GPU, and what the compilers say of them."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# What multiplies matrices in the code; float32 by plain multiply-adds where the hardware has nothing exact enough.
MATRIX_INSTRUCTIONS = {
    "tcgen05": r"\btcgen05\.mma",
    "wgmma": r"\bwgmma\.mma_async",
    "mma.sync": r"\bmma\.sync",
    "mfma": r"\bv_mfma",
    "fma": r"\bfma\.rn\.f32",
}


@dataclass(frozen=True)
class Facts:
    """What came out.

    Attributes:
        registers: of a thread; on AMD vector registers, accumulators among them.
        spilled: bytes of a thread's registers that live in memory; on AMD vector registers, of four bytes.
        shared: bytes of shared memory.
        matrix: the instruction that multiplies matrices.
        code: PTX, or AMD assembly.
    """

    registers: int
    spilled: int
    shared: int
    matrix: str
    code: str


def compile_kernel(
    function: Any,
    target: str,
    types: Mapping[str, str],
    constants: Mapping[str, Any],
    divisible: Collection[str],
    **options: Any,
) -> Facts:
    """Compile, or take from Triton's own cache.

    Args:
        function: the kernel.
        target: of TARGETS.
        types: of the arguments that are not compiled in, as a launch would find them.
        constants: the arguments that are.
        divisible: pointers and integers that are multiples of 16.
        options: num_warps and the like.
    """
    signature, attributes = {}, {}
    for place, name in enumerate(function.arg_names):
        signature[name] = "constexpr" if name in constants else types[name]
        if name in divisible:
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=function, signature=signature, constexprs=dict(constants), attrs=attributes)
    kernel = triton.compile(source, target=TARGETS[target], options=options)
    if TARGETS[target].backend == "hip":
        code = kernel.asm["amdgcn"]
        registers, spilled = (int(re.search(rf"\.{x}:\s+(\d+)", code)[1]) for x in ("vgpr_count", "vgpr_spill_count"))
        spilled *= 4
    else:
        code = kernel.asm["ptx"]
        registers, spilled = _resource_usage(kernel.asm["cubin"])
    matrix = next((name for name, pattern in MATRIX_INSTRUCTIONS.items() if re.search(pattern, code)), "none")
    return Facts(registers, spilled, kernel.metadata.shared, matrix, code)


def _resource_usage(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack; a kernel without local arrays has a stack for spilled registers alone."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run([str(tool), "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", said).groups()
    return int(registers), int(stack)
