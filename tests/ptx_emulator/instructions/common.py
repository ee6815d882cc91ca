"""What the instruction tables share: reading modifiers, and the usual shape of an instruction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ptx_emulator.lanes import Action, Lanes, Linker, unknown
from ptx_emulator.module import TYPE_BITS, Instruction

Builder = Callable[[Instruction, Linker], Action]
SCOPES = ("cta", "cluster", "gpu", "sys")


class Modifiers:
    """The modifiers of an instruction, taken one after another; what is left over at the end is unknown."""

    def __init__(self, instruction: Instruction):
        self.instruction = instruction
        self.left = list(instruction.modifiers)

    def flag(self, name: str) -> bool:
        if name in self.left:
            self.left.remove(name)
            return True
        return False

    def one_of(self, names: Sequence[str], default: str | None = None) -> str:
        for name in self.left:
            if name in names:
                self.left.remove(name)
                return name
        if default is None:
            raise unknown(self.instruction, f"none of {', '.join(names)}")
        return default

    def types(self, count: int, allowed: Sequence[str] | None = None) -> list[str]:
        """The trailing types."""
        found = [name for name in self.left if name in TYPE_BITS or name == "f32x2"]
        if len(found) != count or (allowed is not None and any(name not in allowed for name in found)):
            raise unknown(self.instruction, "of these types")
        for name in found:
            self.left.remove(name)
        return found

    def type(self, allowed: Sequence[str] | None = None) -> str:
        return self.types(1, allowed)[0]

    def done(self) -> None:
        if self.left:
            raise unknown(self.instruction, f".{' .'.join(self.left)}")


def operands(instruction: Instruction, *counts: int) -> tuple:
    """The operands, whose number is one of ``counts``."""
    if len(instruction.operands) not in counts:
        raise unknown(instruction, f"{len(instruction.operands)} operands")
    return instruction.operands


def elementwise(
    instruction: Instruction, linker: Linker, result: str, arguments: Sequence[str], function: Callable[..., np.ndarray]
) -> Action:
    """destination = function(sources), lane by lane."""
    destination, *sources = operands(instruction, 1 + len(arguments))
    readers = [linker.reader(source, kind, instruction) for source, kind in zip(sources, arguments, strict=True)]
    write = linker.writer(destination, result, instruction)
    if len(readers) == 1:
        (first,) = readers
        return lambda lanes: write(lanes, function(first(lanes)))
    if len(readers) == 2:
        first, second = readers
        return lambda lanes: write(lanes, function(first(lanes), second(lanes)))

    def action(lanes: Lanes) -> None:
        write(lanes, function(*[reader(lanes) for reader in readers]))

    return action


def same(value: object, lanes: Lanes, instruction: Instruction) -> int:
    """The one value that all lanes must agree on."""
    values = np.atleast_1d(value)
    if (values != values[0]).any():
        raise unknown(instruction, "an operand that must be the same in all threads differs")
    return int(values[0])
