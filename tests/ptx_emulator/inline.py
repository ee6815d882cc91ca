"""Device functions written into their callers, so that a kernel is one graph of blocks.

A call's .param variables become the callee's parameters. Calls of what has no body (vprintf, __assertfail) stay, and
report an error where a thread reaches them.
"""

from __future__ import annotations

from dataclasses import replace

from ptx_emulator.errors import PtxError, UnknownInstructionError
from ptx_emulator.module import (
    Address,
    Function,
    Group,
    Instruction,
    Module,
    Negated,
    Operand,
    Pair,
    Register,
    Symbol,
    Vector,
)

STOPS = ("vprintf", "__assertfail", "__assert_fail")


def inlined(function: Function, module: Module) -> Function:
    """The function with every call replaced by the callee's instructions."""
    if not any(instruction.opcode == "call" for instruction in function.instructions):
        return function
    work = _Inliner(module, function)
    work.expand(function, {}, 0, "", None, (function.name,))
    return work.result


class _Inliner:
    def __init__(self, module: Module, function: Function):
        self.module = module
        self.result = Function(function.name, True, function.params, limits=function.limits)
        self.copies = 0

    def expand(
        self,
        function: Function,
        names: dict[str, str],
        base: int,
        suffix: str,
        after: str | None,
        chain: tuple[str, ...],
    ) -> None:
        """Appends a function's body. ``names`` renames its parameters, ``after`` is the label that ret jumps to."""
        result = self.result
        result.registers += [Register(base + r.slot, r.type, r.name) for r in function.registers]
        for name, variable in function.variables.items():
            names[name] = name if variable.space == "shared" else name + suffix
            result.variables[names[name]] = replace(variable, name=names[name])
        for name in function.labels:
            names[name] = name + suffix
        for name, targets in function.targets.items():
            result.targets[name + suffix] = tuple(target + suffix for target in targets)
        at: dict[int, list[str]] = {}
        for name, index in function.labels.items():
            at.setdefault(index, []).append(name + suffix)
        for index, instruction in enumerate(function.instructions):
            for label in at.get(index, ()):
                result.labels[label] = len(result.instructions)
            moved = self.moved(instruction, names, base)
            if instruction.opcode == "call" and self.callee(instruction) not in STOPS:
                self.call(moved, instruction, chain)
            elif instruction.opcode == "ret" and after is not None:
                result.instructions.append(replace(moved, opcode="bra", operands=(Symbol(after),), modifiers=()))
            else:
                result.instructions.append(moved)
        for label in at.get(len(function.instructions), ()):
            result.labels[label] = len(result.instructions)

    def callee(self, instruction: Instruction) -> str:
        name = next((operand.name for operand in instruction.operands if isinstance(operand, Symbol)), "")
        if not name:
            raise UnknownInstructionError(f"PTX line {instruction.line}: a call through a pointer")
        return name

    def call(self, moved: Instruction, original: Instruction, chain: tuple[str, ...]) -> None:
        name = self.callee(original)
        function = self.module.functions.get(name)
        if function is None or function.declared_only:
            raise PtxError(f"PTX line {original.line}: {name} has no body in this module")
        if name in chain:
            raise PtxError(f"PTX line {original.line}: {name} calls itself, which is not modelled")
        self.copies += 1
        suffix = f"@{self.copies}"
        groups = [operand for operand in moved.operands if isinstance(operand, Group)]
        has_result = isinstance(moved.operands[0], Group)
        results = groups[0].items if has_result else ()
        arguments = groups[-1].items if len(groups) > has_result else ()
        names = {}
        for formal, actual in zip((*function.results, *function.params), (*results, *arguments), strict=True):
            if not isinstance(actual, Symbol):
                raise UnknownInstructionError(
                    f"PTX line {original.line}: an argument of {name} that is no .param variable"
                )
            names[formal.name] = actual.name
        after = f"return{suffix}"
        if moved.guard is not None:
            register, negated = moved.guard
            self.result.instructions.append(
                replace(moved, opcode="bra", operands=(Symbol(after),), modifiers=(), guard=(register, not negated))
            )
        self.expand(function, names, len(self.result.registers), suffix, after, (*chain, name))
        self.result.labels[after] = len(self.result.instructions)

    def moved(self, instruction: Instruction, names: dict[str, str], base: int) -> Instruction:
        """An instruction with its registers shifted and its names replaced."""

        def change(operand: Operand) -> Operand:
            if isinstance(operand, Register):
                return replace(operand, slot=operand.slot + base)
            if isinstance(operand, Symbol):
                return replace(operand, name=names.get(operand.name, operand.name))
            if isinstance(operand, Address):
                return replace(operand, base=change(operand.base))
            if isinstance(operand, Vector | Group):
                return replace(operand, items=tuple(change(item) for item in operand.items))
            if isinstance(operand, Pair):
                return Pair(change(operand.first), change(operand.second))
            return Negated(change(operand.operand)) if isinstance(operand, Negated) else operand

        guard = instruction.guard
        if guard is not None:
            guard = (replace(guard[0], slot=guard[0].slot + base), guard[1])
        return replace(instruction, operands=tuple(change(operand) for operand in instruction.operands), guard=guard)
