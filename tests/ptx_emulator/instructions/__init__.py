"""Every instruction that is known: opcode -> function that turns an instruction into an action over lanes.

A family is a file with a TABLE; a new one (wgmma, bulk tensor copies, tcgen05) is a new file named in FAMILIES.
Opcodes that
several kinds of number share are told apart by the instruction's type.
"""

from __future__ import annotations

from ptx_emulator.instructions import (
    atomics,
    bits,
    comparison,
    conversion,
    cp_async,
    floating,
    half,
    integer,
    load_store,
    matrix,
    mma,
    synchronisation,
    warp,
)
from ptx_emulator.instructions.common import Builder
from ptx_emulator.lanes import Action, Linker, unknown
from ptx_emulator.module import TYPE_BITS, Instruction

FAMILIES = (
    integer,
    bits,
    floating,
    comparison,
    conversion,
    load_store,
    synchronisation,
    warp,
    atomics,
    matrix,
    mma,
    cp_async,
)


def _by_type(instruction: Instruction, linker: Linker) -> Action:
    kinds = [name for name in instruction.modifiers if name in TYPE_BITS or name == "f32x2"]
    if not kinds:
        raise unknown(instruction, "no type")
    kind = kinds[-1]
    family = half if kind in half.HALVES else floating if kind.startswith("f") else integer
    if instruction.opcode not in family.SHARED:
        raise unknown(instruction)
    builder: Builder = family.SHARED[instruction.opcode]
    return builder(instruction, linker)


TABLE: dict[str, Builder] = dict.fromkeys({*integer.SHARED, *floating.SHARED, *half.SHARED}, _by_type)
for _family in FAMILIES:
    for _opcode, _builder in _family.TABLE.items():
        assert _opcode not in TABLE, _opcode
        TABLE[_opcode] = _builder
