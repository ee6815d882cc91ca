"""The threads that stand at one instruction, and how an instruction reads and writes their registers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ptx_emulator.errors import UnknownInstructionError
from ptx_emulator.module import (
    TYPE_BITS,
    Immediate,
    Instruction,
    Negated,
    Operand,
    Register,
    Sink,
    Special,
    Symbol,
    Vector,
)

if TYPE_CHECKING:
    from ptx_emulator.machine import Machine

WARP = 32
Reader = Callable[["Lanes"], np.ndarray]
Writer = Callable[["Lanes", np.ndarray], None]
Action = Callable[["Lanes"], None]

STORAGE = {1: np.dtype(np.bool_), 8: np.dtype(np.uint8), 16: np.dtype(np.uint16), 32: np.dtype(np.uint32)}
STORAGE[64] = np.dtype(np.uint64)
NUMPY = {
    f"{kind}{bits}": np.dtype(f"{'i' if kind == 's' else 'u'}{bits // 8}") for kind in "bus" for bits in (8, 16, 32, 64)
}
NUMPY |= {"f16": np.dtype(np.float16), "f32": np.dtype(np.float32), "f64": np.dtype(np.float64)}
# Formats that NumPy lacks travel as bits; the instructions that compute with them convert.
NUMPY |= {
    "bf16": np.dtype(np.uint16),
    "f16x2": np.dtype(np.uint32),
    "bf16x2": np.dtype(np.uint32),
    "tf32": np.dtype(np.uint32),
}
NUMPY |= {"e4m3x2": np.dtype(np.uint16), "e5m2x2": np.dtype(np.uint16), "pred": np.dtype(np.bool_)}


class Lanes:
    """Some threads of the resident blocks. Thread n is lane n % 32 of warp n // 32; blocks follow one another."""

    def __init__(self, machine: Machine, index: np.ndarray):
        self.machine = machine
        self.registers = machine.registers
        self.index = index  # thread numbers, ascending
        self.count = index.size
        self.full = index.size == machine.threads

    def get(self, slot: int) -> np.ndarray:
        register = self.registers[slot]
        return register if self.full else register[self.index]

    def put(self, slot: int, value: np.ndarray) -> None:
        if self.full:
            self.registers[slot][:] = value
        else:
            self.registers[slot][self.index] = value

    def where(self, mask: np.ndarray) -> Lanes:
        return Lanes(self.machine, self.index[mask])

    @cached_property
    def warps(self) -> np.ndarray:
        """The warps these threads belong to, ascending."""
        return np.unique(self.index >> 5)

    @cached_property
    def whole_warps(self) -> bool:
        """Whether every warp is here with all of its 32 lanes."""
        return self.count == WARP * self.warps.size

    @cached_property
    def block(self) -> np.ndarray:
        """For each thread the number of its block among the resident ones."""
        return self.index // self.machine.block_threads

    @cached_property
    def present(self) -> np.ndarray:
        """For every thread of the machine whether it is one of these."""
        present = np.zeros(self.machine.threads, np.bool_)
        present[self.index] = True
        return present

    @cached_property
    def lane_mask(self) -> np.ndarray:
        """For each of these threads the 32-bit mask of its warp's lanes that are here."""
        masks = self.machine.pack_lanes(self.present)
        return masks[self.index >> 5]


def unknown(instruction: Instruction, what: str = "") -> UnknownInstructionError:
    """The error for an instruction that no table holds."""
    detail = f": {what}" if what else ""
    return UnknownInstructionError(f"PTX line {instruction.line}: unknown instruction `{instruction.text}`{detail}")


def storage_bits(register: Register) -> int:
    return TYPE_BITS[register.type]


def immediate(operand: Immediate, kind: str) -> np.generic:
    """A literal as a scalar of a PTX type. A plain number is a value, 0f.../0d... is a bit pattern."""
    dtype = NUMPY[kind]
    if operand.bits:
        bits = np.uint32(operand.value) if operand.bits == 32 else np.uint64(operand.value)
        if dtype.itemsize * 8 == operand.bits:
            return bits.view(dtype)
        value = bits.view(np.float32 if operand.bits == 32 else np.float64)
        if dtype.kind != "f":
            raise UnknownInstructionError(f"a {operand.bits}-bit float literal where {kind} is expected")
        return dtype.type(value)
    if dtype.kind == "b":
        return np.bool_(operand.value)
    if dtype.kind == "f":
        return dtype.type(operand.value)
    bits = dtype.itemsize * 8
    return np.array(int(operand.value) & (1 << bits) - 1, f"u{bits // 8}").view(dtype)[()]


class Linker:
    """Turns the operands of one kernel into functions over lanes."""

    def __init__(self, machine_facts: object):
        self.facts = machine_facts  # addresses of symbols and other constants of the launch

    def reader(self, operand: Operand, kind: str, instruction: Instruction) -> Reader:
        """A function that gives the operand's value for every lane, in the NumPy type of a PTX type.

        A register wider than the type gives its low bits.
        """
        dtype = NUMPY[kind]
        if isinstance(operand, Register):
            return self._register_reader(operand, kind, instruction)
        if isinstance(operand, Immediate):
            try:
                constant = immediate(operand, kind)
            except UnknownInstructionError as error:
                raise unknown(instruction, str(error)) from None
            return lambda lanes: constant
        if isinstance(operand, Negated):
            inner = self.reader(operand.operand, kind, instruction)
            return lambda lanes: ~inner(lanes)
        if isinstance(operand, Symbol):
            address = (
                np.array(self.facts.address(operand, instruction), np.uint64)
                .astype(f"u{dtype.itemsize}")
                .view(dtype)[()]
            )
            return lambda lanes: address
        if not isinstance(operand, Special):
            raise unknown(instruction, f"{operand} is no value")
        special = self.facts.special(operand, instruction)
        wanted = f"u{dtype.itemsize}"
        return lambda lanes: special(lanes).astype(wanted).view(dtype)

    def _register_reader(self, operand: Register, kind: str, instruction: Instruction) -> Reader:
        slot, dtype, bits = operand.slot, NUMPY[kind], storage_bits(operand)
        wanted = 1 if kind == "pred" else dtype.itemsize * 8
        if bits < wanted or (bits == 1) != (wanted == 1):
            raise unknown(instruction, f"{operand.name} is .{operand.type}, {kind} is expected")
        if STORAGE[bits] == dtype:
            return lambda lanes: lanes.get(slot)
        if bits == wanted:
            return lambda lanes: lanes.get(slot).view(dtype)
        low = STORAGE[wanted]
        return lambda lanes: lanes.get(slot).astype(low).view(dtype)

    def writer(self, operand: Operand, kind: str, instruction: Instruction) -> Writer:
        """A function that stores a value of a PTX type for every lane. A wider register is sign- or zero-extended."""
        if isinstance(operand, Sink):
            return lambda lanes, value: None
        if not isinstance(operand, Register):
            raise unknown(instruction, f"{operand} is no destination")
        slot, dtype, bits = operand.slot, NUMPY[kind], storage_bits(operand)
        given = 1 if kind == "pred" else dtype.itemsize * 8
        if bits < given or (bits == 1) != (given == 1):
            raise unknown(instruction, f"{operand.name} is .{operand.type}, too small for {kind}")
        storage = STORAGE[bits]
        if storage == dtype:
            return lambda lanes, value: lanes.put(slot, value)
        if bits == given:
            return lambda lanes, value: lanes.put(slot, value.view(storage))
        if dtype.kind == "i":
            signed = np.dtype(f"i{bits // 8}")
            return lambda lanes, value: lanes.put(slot, value.astype(signed).view(storage))
        raw = STORAGE[given]
        return lambda lanes, value: lanes.put(slot, value.view(raw).astype(storage))

    def items(self, operand: Operand) -> tuple[Operand, ...]:
        return operand.items if isinstance(operand, Vector) else (operand,)
