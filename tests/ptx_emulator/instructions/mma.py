"""mma.sync: products of small matrices spread over the registers of a warp.

With g = lane // 4, t = lane % 4 and E elements to a 32-bit register, the ISA's tables for all shapes used here come
down to: A[g + 8 * (r % 2), E * t + e + 4 * E * (r // 2)] is element e of register r; B[E * t + e + 4 * E * r, g] is
element e of
register r; C and D[g + 8 * i, 2 * t + h] are number 2 * i + h. E is 1 for tf32, 2 for 16 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ptx_emulator import formats
from ptx_emulator.instructions.common import Modifiers, operands
from ptx_emulator.instructions.half import widen
from ptx_emulator.instructions.matrix import need_whole_warps
from ptx_emulator.lanes import Action, Lanes, Linker, Reader, unknown
from ptx_emulator.module import Instruction

# (A and B type, accumulator types): the shapes the ISA gives them.
_SHAPES = {
    "f16": (("m16n8k16", "m16n8k8"), ("f32", "f16")),
    "bf16": (("m16n8k16", "m16n8k8"), ("f32",)),
    "tf32": (("m16n8k8", "m16n8k4"), ("f32",)),
}
_ELEMENTS = {"f16": 2, "bf16": 2, "tf32": 1}  # of a register
_SMALLEST = {"f16": -14, "bf16": -126, "tf32": -126}  # exponents of normal numbers
_ROWS = 16


@dataclass(frozen=True)
class Tile:
    """One form of mma.sync: 16 x 8 results."""

    inner: int
    kind: str  # of A and B
    accumulator: str  # of C and D

    @property
    def registers(self) -> tuple[int, int, int]:
        """How many of A, of B, and of C or D a lane holds."""
        b = 8 * self.inner // 32 // _ELEMENTS[self.kind]
        return 2 * b, b, 2 if self.accumulator == "f16" else 4


def values(registers: np.ndarray, kind: str) -> np.ndarray:
    """Registers (uint32) as float64 elements, one more dimension."""
    if kind == "tf32":  # the hardware ignores the low 13 bits
        return (registers & np.uint32(0xFFFF_E000)).view(np.float32).astype(np.float64)[..., None]
    return widen(registers.view(np.uint16), kind).reshape(*registers.shape, 2)


def gather_a(registers: np.ndarray, tile: Tile) -> np.ndarray:
    """(registers, warps, 32) to (warps, 16, inner)."""
    parts = values(registers, tile.kind).reshape(-1, 2, registers.shape[1], 8, 4, _ELEMENTS[tile.kind])
    return parts.transpose(2, 1, 3, 0, 4, 5).reshape(-1, _ROWS, tile.inner)


def gather_b(registers: np.ndarray, tile: Tile) -> np.ndarray:
    """(registers, warps, 32) to (warps, inner, 8)."""
    parts = values(registers, tile.kind).reshape(-1, registers.shape[1], 8, 4, _ELEMENTS[tile.kind])
    return parts.transpose(1, 0, 3, 4, 2).reshape(-1, tile.inner, 8)


def gather_c(registers: np.ndarray, tile: Tile) -> np.ndarray:
    """(registers, warps, 32) to (warps, 16, 8), float64."""
    warps = registers.shape[1]
    if tile.accumulator == "f16":
        pairs = widen(registers.view(np.uint16), "f16").reshape(2, warps, 8, 4, 2)
        return pairs.transpose(1, 0, 2, 3, 4).reshape(-1, _ROWS, 8)
    parts = registers.view(np.float32).astype(np.float64).reshape(2, 2, warps, 8, 4)
    return parts.transpose(2, 0, 3, 4, 1).reshape(-1, _ROWS, 8)


def scatter_d(matrix: np.ndarray, tile: Tile) -> np.ndarray:
    """(warps, 16, 8) of the accumulator's own type to (registers, warps * 32) uint32."""
    warps = matrix.shape[0]
    parts = matrix.reshape(warps, 2, 8, 4, 2)
    if tile.accumulator == "f16":
        return np.ascontiguousarray(parts.transpose(1, 0, 2, 3, 4)).view(np.uint32).reshape(2, warps * 32)
    return np.ascontiguousarray(parts.transpose(1, 4, 0, 2, 3)).view(np.uint32).reshape(4, warps * 32)


def exact_product(a: np.ndarray, b: np.ndarray, c: np.ndarray, tile: Tile) -> np.ndarray:
    """a @ b + c summed in float64 and rounded once to the accumulator's type."""
    total = np.matmul(a, b) + c
    return formats.f64_to_f16(total) if tile.accumulator == "f16" else formats.canonical(total.astype(np.float32))


@dataclass(frozen=True)
class TensorCore:
    """How a generation adds up: Xie, Gao and others, "MMA-Sim" (2025): terms aligned to the largest and truncated."""

    fraction_bits: int
    bytes_at_once: int
    zero_exponent: dict[str, int]


TENSOR_CORES = {
    "ampere": TensorCore(24, 16, {"f32": -132, "f16": -20}),
    "hopper": TensorCore(25, 32, {"f32": -133, "f16": -21}),
}


def _split(value: np.ndarray, smallest: int) -> tuple[np.ndarray, np.ndarray]:
    """Significand in [1, 2) and exponent, subnormals at the smallest exponent."""
    significand, exponent = np.frexp(value)
    significand, exponent = significand * 2.0, exponent - 1
    low = (exponent < smallest) | (value == 0)
    significand = np.where(low, np.ldexp(significand, np.where(low, exponent - smallest, 0)), significand)
    return significand, np.where(low, smallest, exponent)


def hardware_product(a: np.ndarray, b: np.ndarray, c: np.ndarray, tile: Tile, core: TensorCore) -> np.ndarray:
    """a @ b + c as a tensor core computes it, in pieces of the inner dimension."""
    step = core.bytes_at_once * _ELEMENTS[tile.kind] // 4
    zero = core.zero_exponent[tile.accumulator]
    a_part, a_exponent = _split(a, _SMALLEST[tile.kind])
    b_part, b_exponent = _split(b, _SMALLEST[tile.kind])
    for start in range(0, tile.inner, step):
        piece = slice(start, start + step)
        terms = a_part[:, :, None, piece] * b_part[:, piece].swapaxes(1, 2)[:, None]
        exponents = a_exponent[:, :, None, piece] + b_exponent[:, piece].swapaxes(1, 2)[:, None]
        c_part, c_exponent = _split(c, -14 if tile.accumulator == "f16" else -126)
        terms = np.concatenate([terms, c_part[..., None]], axis=3)
        exponents = np.concatenate([exponents, c_exponent[..., None]], axis=3)
        exponents = np.where(terms == 0, zero, exponents)
        largest = exponents.max(axis=3)
        aligned = np.trunc(np.ldexp(terms, exponents - largest[..., None] + core.fraction_bits))
        total = np.ldexp(aligned.sum(axis=3), largest - core.fraction_bits) + 0.0
        if tile.accumulator == "f16":
            c = formats.round_to(total, formats.F16, "rn")
        else:
            c = formats.round_to(total, formats.F32, "rz")
            c = np.where(np.abs(total) >= 2.0**128, np.copysign(np.inf, total), c)
    return formats.f64_to_f16(c) if tile.accumulator == "f16" else formats.canonical(c.astype(np.float32))


def _tile(instruction: Instruction) -> Tile:
    modifiers = Modifiers(instruction)
    if not all(modifiers.flag(name) for name in ("sync", "aligned", "row", "col")) or len(modifiers.left) != 5:
        raise unknown(instruction)
    shape, d_type, a_type, b_type, c_type = modifiers.left
    shapes, accumulators = _SHAPES.get(a_type, ((), ()))
    if shape not in shapes or a_type != b_type or d_type != c_type or c_type not in accumulators:
        raise unknown(instruction)
    return Tile(int(shape.split("k")[1]), a_type, c_type)


def mma(instruction: Instruction, linker: Linker) -> Action:
    tile = _tile(instruction)
    destination, *sources = operands(instruction, 4)
    readers = []
    for source, count in zip(sources, tile.registers, strict=True):
        items = linker.items(source)
        if len(items) != count:
            raise unknown(instruction, f"{len(items)} registers where {count} belong")
        readers.append([linker.reader(item, "b32", instruction) for item in items])
    if len(linker.items(destination)) != tile.registers[2]:
        raise unknown(instruction)
    writers = [linker.writer(item, "b32", instruction) for item in linker.items(destination)]

    def action(lanes: Lanes) -> None:
        need_whole_warps(lanes, instruction)
        a, b, c = (_stacked(part, lanes) for part in readers)
        a, b, c = gather_a(a, tile), gather_b(b, tile), gather_c(c, tile)
        core = TENSOR_CORES.get(lanes.machine.options.mma)
        product = exact_product(a, b, c, tile) if core is None else hardware_product(a, b, c, tile, core)
        for write, column in zip(writers, scatter_d(product, tile), strict=True):
            write(lanes, column)

    return action


def _stacked(readers: list[Reader], lanes: Lanes) -> np.ndarray:
    return np.stack([np.broadcast_to(reader(lanes), lanes.count) for reader in readers]).reshape(len(readers), -1, 32)


TABLE = {"mma": mma}
