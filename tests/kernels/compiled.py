"""The Triton kernels compiled ahead of time, without a GPU, and what the compilers say of them.

``python compiled.py`` prints the table that ``make kernels-report`` asks for: registers, spilled bytes, shared memory
and the matrix instruction of every kernel for every target.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastbert.kernels.attention_backward import attention_backward_k, attention_backward_q
from fastbert.kernels.attention_forward import attention_forward
from fastbert.kernels.configurations import Configuration, architecture, configuration, float32_precision, padded

KERNELS = {"forward": attention_forward, "backward_q": attention_backward_q, "backward_k": attention_backward_k}
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
ITEMSIZE = {"fp32": 4, "bf16": 2, "fp16": 2}
FEATURES = ("causal", "window", "dropout", "packed", "padding", "dlse")


@dataclass(frozen=True)
class Variant:
    """A kernel for a target, a type, a head_dim and the features that change its code."""

    kernel: str
    target: str
    dtype: str
    head_dim: int
    features: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((self.kernel, self.target, self.dtype, str(self.head_dim), *self.features))

    @property
    def function(self) -> Any:
        return KERNELS[self.kernel]

    @property
    def configuration(self) -> Configuration:
        target = TARGETS[self.target]
        row = architecture(target.backend, target.arch)
        return configuration(self.kernel, row, ITEMSIZE[self.dtype], padded(self.head_dim))

    def constants(self) -> dict[str, Any]:
        """The values that are compiled in."""
        target = TARGETS[self.target]
        tiles = self.configuration
        absent = []
        if "packed" not in self.features:
            absent += ["cu_seqlens_q", "cu_seqlens_k"]
        if "padding" not in self.features:
            absent.append("key_padding_mask")
        if "dropout" not in self.features:
            absent.append("rng")
        if "dlse" not in self.features:
            absent.append("dlse")
        return {name: None for name in absent if name in self.function.arg_names} | {
            "has_left": "window" in self.features,
            "has_right": "window" in self.features or "causal" in self.features,
            "head_dim": self.head_dim,
            "dim": padded(self.head_dim),
            "precision": float32_precision(architecture(target.backend, target.arch)),
            "block_q": tiles.block_q,
            "block_k": tiles.block_k,
        }

    def type_of(self, name: str) -> str:
        """An argument's type, as a launch would find it."""
        if name in ("q", "k", "v", "out", "dout", "dq", "dk", "dv"):
            return f"*{self.dtype}"
        others = {
            "lse": "*fp32",
            "dlse": "*fp32",
            "delta": "*fp32",
            "cu_seqlens_q": "*i32",
            "cu_seqlens_k": "*i32",
            "key_padding_mask": "*u8",
            "rng": "*i64",
            "scale": "fp32",
        }
        return others.get(name, "i32")


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


@cache
def compiled(variant: Variant) -> Facts:
    """Compile, or take from Triton's own cache."""
    function, constants = variant.function, variant.constants()
    signature, attributes = {}, {}
    for place, name in enumerate(function.arg_names):
        signature[name] = "constexpr" if name in constants else variant.type_of(name)
        if signature[name].startswith("*") or name.endswith(("_batch", "_row", "_head")):
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=attributes)
    tiles = variant.configuration
    options = {"num_warps": tiles.num_warps, "num_stages": tiles.num_stages, "enable_fp_fusion": True}
    kernel = triton.compile(source, target=TARGETS[variant.target], options=options)
    if TARGETS[variant.target].backend == "hip":
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


def feature_sets(kernel: str) -> list[tuple[str, ...]]:
    """All combinations; a window is a band with both edges, so it does not come with causal."""
    own = [x for x in FEATURES if x != "dlse" or kernel == "backward_q"]
    sets = (x for n in range(len(own) + 1) for x in itertools.combinations(own, n))
    # Key padding is for dense calls.
    return [x for x in sets if not {"causal", "window"} <= set(x) and not {"packed", "padding"} <= set(x)]


def report() -> Iterator[str]:
    """The table's lines, in Markdown: training's case (causal, dropout, packed), and the usual head_dim's plain one."""
    yield "| target | type | head_dim | features | kernel | tile | warps | stages | registers | spill | shared | by |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    training = ("causal", "dropout", "packed")
    shapes = ((64, ()), (64, training), (128, training), (256, training))
    for target, dtype, (head_dim, features), kernel in itertools.product(TARGETS, ("bf16", "fp32"), shapes, KERNELS):
        variant = Variant(kernel, target, dtype, head_dim, features)
        facts, tiles = compiled(variant), variant.configuration
        cells = (
            target,
            dtype,
            head_dim,
            ", ".join(features) or "none",
            kernel,
            f"{tiles.block_q} x {tiles.block_k}",
            tiles.num_warps,
            tiles.num_stages,
            facts.registers,
            facts.spilled,
            facts.shared,
            facts.matrix,
        )
        yield "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    for line in report():
        sys.stdout.write(line + "\n")
        sys.stdout.flush()  # a kernel takes seconds to compile
