"""Logic, shifts and bit fields."""

from __future__ import annotations

import numpy as np

from ptx_emulator.instructions.common import Modifiers, elementwise, operands
from ptx_emulator.lanes import NUMPY, Action, Lanes, Linker, unknown
from ptx_emulator.module import TYPE_BITS, Immediate, Instruction

_WORDS = ("b16", "b32", "b64")
_LOGIC = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}


def logic(instruction: Instruction, linker: Linker) -> Action:
    modifiers = Modifiers(instruction)
    kind = modifiers.type(("pred", *_WORDS))
    modifiers.done()
    return elementwise(instruction, linker, kind, [kind] * 2, _LOGIC[instruction.opcode])


def invert(instruction: Instruction, linker: Linker) -> Action:
    modifiers = Modifiers(instruction)
    kind = modifiers.type(("pred", *_WORDS))
    modifiers.done()
    if instruction.opcode == "cnot":
        return elementwise(instruction, linker, kind, [kind], lambda a: (np.asarray(a) == 0).astype(NUMPY[kind]))
    return elementwise(instruction, linker, kind, [kind], np.invert)


def lop3(instruction: Instruction, linker: Linker) -> Action:
    """Any function of three bits, given by its truth table."""
    modifiers = Modifiers(instruction)
    modifiers.type(("b32",))
    modifiers.done()
    *_, table = operands(instruction, 5)
    if not isinstance(table, Immediate):
        raise unknown(instruction)
    shorter = Instruction("lop3", (), instruction.operands[:4], None, instruction.line, instruction.text)

    def function(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        result = np.uint32(0)
        for row in range(8):  # bit 2 of the row is a, bit 1 b, bit 0 c
            if int(table.value) >> row & 1:
                term = (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
                result = result | term
        return result

    return elementwise(shorter, linker, "b32", ["b32"] * 3, function)


def shift(instruction: Instruction, linker: Linker) -> Action:
    """shl and shr; a distance past the width shifts everything out."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type((*_WORDS, "u16", "u32", "u64", "s16", "s32", "s64"))
    modifiers.done()
    bits, dtype = TYPE_BITS[kind], NUMPY[kind]

    def left(a: np.ndarray, distance: np.ndarray) -> np.ndarray:
        small = np.minimum(distance, np.uint32(bits - 1)).astype(dtype)
        return np.where(distance < bits, a << small, dtype.type(0))

    def right(a: np.ndarray, distance: np.ndarray) -> np.ndarray:
        small = np.minimum(distance, np.uint32(bits - 1)).astype(dtype)
        if dtype.kind == "i":
            return a >> small
        return np.where(distance < bits, a >> small, dtype.type(0))

    return elementwise(instruction, linker, kind, [kind, "u32"], left if instruction.opcode == "shl" else right)


def funnel(instruction: Instruction, linker: Linker) -> Action:
    """shf: shifts 64 bits made of two words and keeps one word."""
    modifiers = Modifiers(instruction)
    direction, mode = modifiers.one_of(("l", "r")), modifiers.one_of(("clamp", "wrap"))
    modifiers.type(("b32",))
    modifiers.done()

    def function(low: np.ndarray, high: np.ndarray, distance: np.ndarray) -> np.ndarray:
        whole = np.asarray(high).astype(np.uint64) << np.uint64(32) | np.asarray(low).astype(np.uint64)
        n = (np.minimum(distance, np.uint32(32)) if mode == "clamp" else distance & np.uint32(31)).astype(np.uint64)
        result = whole << n >> np.uint64(32) if direction == "l" else whole >> n
        return result.astype(np.uint32)

    return elementwise(instruction, linker, "b32", ["b32", "b32", "u32"], function)


_PRMT_MODES = {
    "f4e": lambda n: [n, n + 1, n + 2, n + 3],
    "b4e": lambda n: [n, n - 1, n - 2, n - 3],
    "rc8": lambda n: [n] * 4,
    "ecl": lambda n: [max(n, i) for i in range(4)],
    "ecr": lambda n: [min(n, i) for i in range(4)],
    "rc16": lambda n: [n % 2 * 2, n % 2 * 2 + 1] * 2,
}


def permute(instruction: Instruction, linker: Linker) -> Action:
    """prmt: picks four of the eight bytes of two words; the selector's top bit repeats the byte's sign."""
    modifiers = Modifiers(instruction)
    mode = modifiers.one_of(tuple(_PRMT_MODES), "")
    modifiers.type(("b32",))
    modifiers.done()
    # A mode's selector has the low two bits (of the second byte pair for f4e and its mirror) of the first operand only.
    table = np.array([[i % 8 for i in _PRMT_MODES[mode](n)] for n in range(4)]) if mode else None

    def function(a: np.ndarray, b: np.ndarray, selector: np.ndarray) -> np.ndarray:
        a, b, selector = np.broadcast_arrays(np.atleast_1d(a), b, selector)
        both = np.stack([a, b], axis=1).view(np.uint8).reshape(-1, 8)
        if table is not None:
            return np.take_along_axis(both, table[selector & 3], axis=1).view(np.uint32)[:, 0]
        nibbles = selector[:, None] >> np.array([0, 4, 8, 12], np.uint32)
        chosen = np.take_along_axis(both, (nibbles & 7).astype(np.int64), axis=1)
        sign = (chosen.view(np.int8) >> 7).view(np.uint8)
        return np.where(nibbles & 8, sign, chosen).astype(np.uint8).view(np.uint32)[:, 0]

    return elementwise(instruction, linker, "b32", ["b32"] * 3, function)


def _ones(count: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Numbers whose lowest ``count`` bits are set."""
    bits = dtype.itemsize * 8
    whole = np.array(-1).astype(dtype)
    return np.where(count == 0, dtype.type(0), whole >> (bits - np.maximum(count, 1)).astype(dtype))


def extract(instruction: Instruction, linker: Linker) -> Action:
    """bfe: a field of bits, sign-extended for signed types."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type(("u32", "s32", "u64", "s64"))
    modifiers.done()
    bits, unsigned = TYPE_BITS[kind], NUMPY["u" + kind[1:]]

    def function(a: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
        a = np.atleast_1d(a).view(unsigned)
        position, count = (np.asarray(v).astype(np.int64) & 0xFF for v in (start, length))
        shifted = np.where(position < bits, a >> np.minimum(position, bits - 1).astype(unsigned), unsigned.type(0))
        mask = _ones(np.minimum(count, bits), unsigned)
        field = shifted & mask
        if kind[0] == "s":  # the sign is the field's last bit, or the word's where the field reaches past it
            last = np.minimum(position + count - 1, bits - 1)
            sign = (a >> np.maximum(last, 0).astype(unsigned) & unsigned.type(1)).astype(np.bool_) & (count > 0)
            filled = np.where(position < bits, np.minimum(bits - position, count), 0)
            field = np.where(sign, field | ~_ones(np.minimum(filled, bits), unsigned), field)
        return field.view(NUMPY[kind])

    return elementwise(instruction, linker, kind, [kind, "u32", "u32"], function)


def insert(instruction: Instruction, linker: Linker) -> Action:
    """bfi: puts a field into a word."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type(("b32", "b64"))
    modifiers.done()
    bits, dtype = TYPE_BITS[kind], NUMPY[kind]

    def function(field: np.ndarray, word: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
        position, count = (np.asarray(v).astype(np.int64) & 0xFF for v in (start, length))
        inside = position < bits
        at = np.minimum(position, bits - 1).astype(dtype)
        mask = np.where(inside, _ones(np.minimum(count, bits), dtype) << at, dtype.type(0))
        return (word & ~mask) | (field << at & mask)

    return elementwise(instruction, linker, kind, [kind, kind, "u32", "u32"], function)


def bmsk(instruction: Instruction, linker: Linker) -> Action:
    """A mask of ``b`` bits from bit ``a`` on."""
    modifiers = Modifiers(instruction)
    wrap = modifiers.one_of(("clamp", "wrap")) == "wrap"
    modifiers.type(("b32",))
    modifiers.done()

    def function(start: np.ndarray, length: np.ndarray) -> np.ndarray:
        position, count = (np.asarray(v).astype(np.int64) for v in (start, length))
        position, count = (position & 31, count & 31) if wrap else (position, np.minimum(count, 32))
        at = np.minimum(position, 31).astype(np.uint32)
        return np.where(position < 32, _ones(count, np.dtype(np.uint32)) << at, np.uint32(0))

    return elementwise(instruction, linker, "b32", ["b32", "b32"], function)


def _top_bit(a: np.ndarray) -> np.ndarray:
    """The position of the highest one bit, -1 for zero."""
    a = np.atleast_1d(a)
    high = (a >> np.array(a.dtype.itemsize * 4, a.dtype)).astype(np.float64) if a.dtype.itemsize == 8 else a * 0.0
    low = (a & np.array(0xFFFF_FFFF, a.dtype)).astype(np.float64)
    position = np.frexp(np.where(high > 0, high, low))[1] - 1
    return np.where(a == 0, -1, position + np.where(high > 0, 32, 0))


def count_bits(instruction: Instruction, linker: Linker) -> Action:
    """popc, clz, brev."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type(("b32", "b64"))
    modifiers.done()
    bits = TYPE_BITS[kind]

    def popc(a: np.ndarray) -> np.ndarray:
        octets = np.atleast_1d(a).view(np.uint8).reshape(-1, bits // 8)
        return np.unpackbits(octets, axis=1).sum(axis=1, dtype=np.uint32)

    def clz(a: np.ndarray) -> np.ndarray:
        return (bits - 1 - _top_bit(a)).astype(np.uint32)

    def brev(a: np.ndarray) -> np.ndarray:
        octets = np.atleast_1d(a).view(np.uint8).reshape(-1, bits // 8)
        table = np.packbits(np.unpackbits(octets, axis=1, bitorder="little"), axis=1)
        return np.ascontiguousarray(table[:, ::-1]).view(NUMPY[kind])[:, 0]

    if instruction.opcode == "brev":
        return elementwise(instruction, linker, kind, [kind], brev)
    return elementwise(instruction, linker, "u32", [kind], popc if instruction.opcode == "popc" else clz)


def bfind(instruction: Instruction, linker: Linker) -> Action:
    """The position of the highest bit that differs from the sign; all ones where there is none."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type(("u32", "s32", "u64", "s64"))
    distance = modifiers.flag("shiftamt")
    modifiers.done()
    bits, unsigned = TYPE_BITS[kind], NUMPY["u" + kind[1:]]

    def function(a: np.ndarray) -> np.ndarray:
        a = np.atleast_1d(a)
        position = _top_bit(np.where(a < 0, ~a, a).view(unsigned))
        result = np.where(position < 0, position, bits - 1 - position) if distance else position
        return result.astype(np.int32).view(np.uint32)

    return elementwise(instruction, linker, "u32", [kind], function)


def move(instruction: Instruction, linker: Linker) -> Action:
    """mov: a value, or several packed into one register, or one unpacked into several."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type()
    modifiers.done()
    destination, source = operands(instruction, 2)
    into, out = linker.items(destination), linker.items(source)
    if len(into) == len(out) == 1:
        return elementwise(
            Instruction("mov", (), (into[0], out[0]), None, instruction.line, instruction.text),
            linker,
            kind,
            [kind],
            lambda a: a,
        )
    parts = max(len(into), len(out))
    part = f"b{TYPE_BITS[kind] // parts}"
    if min(len(into), len(out)) != 1 or part not in NUMPY:
        raise unknown(instruction)
    whole, piece = NUMPY[f"b{TYPE_BITS[kind]}"], NUMPY[part]
    if len(out) > 1:
        readers = [linker.reader(item, part, instruction) for item in out]
        write = linker.writer(into[0], f"b{TYPE_BITS[kind]}", instruction)

        def pack(lanes: Lanes) -> None:
            packed = np.empty((lanes.count, parts), piece)
            for column, reader in enumerate(readers):
                packed[:, column] = reader(lanes)
            write(lanes, packed.view(whole)[:, 0])

        return pack
    read = linker.reader(out[0], f"b{TYPE_BITS[kind]}", instruction)
    writers = [linker.writer(item, part, instruction) for item in into]

    def unpack(lanes: Lanes) -> None:
        columns = np.array(np.broadcast_to(read(lanes), lanes.count)).view(piece).reshape(-1, parts)
        for column, write_part in enumerate(writers):
            write_part(lanes, np.ascontiguousarray(columns[:, column]))

    return unpack


TABLE = {
    "and": logic,
    "or": logic,
    "xor": logic,
    "not": invert,
    "cnot": invert,
    "lop3": lop3,
    "shl": shift,
    "shr": shift,
    "shf": funnel,
    "prmt": permute,
    "bfe": extract,
    "bfi": insert,
    "bmsk": bmsk,
    "popc": count_bits,
    "clz": count_bits,
    "brev": count_bits,
    "bfind": bfind,
    "mov": move,
}
