"""PTX text to a Module: what nvcc and Triton emit, debug directives included.

Names are scoped as PTX scopes them: a register or label declared in ``{ ... }`` is another one than its namesake
outside, which inline assembly relies on. Every register becomes a numbered slot.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

from ptx_emulator.errors import PtxError
from ptx_emulator.lexer import Token, tokens, without_line_directives
from ptx_emulator.module import (
    TYPE_BITS,
    Address,
    Function,
    Group,
    Immediate,
    Instruction,
    Module,
    Negated,
    Operand,
    Pair,
    Register,
    Sink,
    Special,
    Symbol,
    Variable,
    Vector,
)

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_NUMBERED = re.compile(r"(.*?)(\d+)$")
_LIMITS = {
    ".maxntid",
    ".reqntid",
    ".minnctapersm",
    ".maxnreg",
    ".maxnctapersm",
    ".reqnctapercluster",
    ".explicitcluster",
}
_LINKAGE = {".visible", ".extern", ".weak", ".common"}
_SPACES = {".shared", ".global", ".const", ".local", ".param"}


@dataclass
class _Scope:
    """The registers and labels of one pair of braces."""

    parent: _Scope | None
    number: int
    registers: dict[str, Register] = field(default_factory=dict)
    ranges: dict[str, tuple[int, str]] = field(default_factory=dict)  # %r<100>: prefix -> count, type
    labels: dict[str, str] = field(default_factory=dict)  # name -> name unique in the function
    variables: dict[str, str] = field(default_factory=dict)


def parse(text: str) -> Module:
    """A PTX file's content. Raises PtxError, with the line, for what it cannot read."""
    return _Parser(text).module()


class _Parser:
    def __init__(self, text: str):
        self.text = without_line_directives(text)
        self.tokens = [*tokens(self.text), Token("end", "", text.count("\n") + 1)]
        self.at = 0
        self.result = Module()
        self.function = Function("", False)
        self.scope = _Scope(None, 0)
        self.scopes = 0
        self.waiting: list[tuple[_Scope, int]] = []  # instructions whose label operands wait for the function's end

    # Tokens

    @property
    def next(self) -> str:
        return self.tokens[self.at].text

    @property
    def line(self) -> int:
        return self.tokens[self.at].line

    def take(self, expected: str | None = None) -> str:
        token = self.tokens[self.at]
        if expected is not None and token.text != expected:
            raise PtxError(f"PTX line {token.line}: expected {expected!r}, found {token.text!r}")
        self.at += 1
        return token.text

    def taken(self, text: str) -> bool:
        if self.next != text:
            return False
        self.at += 1
        return True

    def skip_braces(self) -> None:
        depth = 0
        while True:
            token = self.take()
            depth += (token == "{") - (token == "}")
            if depth == 0:
                return

    def skip_past(self, mark: str) -> None:
        while self.take() != mark:
            pass

    def number(self) -> int:
        negative = self.taken("-")
        value = int(self.take().rstrip("U"), 0)
        return -value if negative else value

    # Module level

    def module(self) -> Module:
        while self.tokens[self.at].kind != "end":
            word = self.take()
            if word == ".version":
                self.result.version = self.take()
            elif word == ".target":
                self.result.target = self.take()
                while self.taken(","):
                    self.take()
            elif word == ".address_size":
                if self.take() != "64":
                    raise PtxError(f"PTX line {self.line}: only 64-bit addresses are known")
            elif word == ".section":
                self.take()
                self.skip_braces()
            elif word in _LINKAGE or word == ";":
                continue
            elif word in _SPACES:
                variable = self.variable(word)
                self.result.variables[variable.name] = variable
            elif word in (".entry", ".func"):
                self.parse_function(word == ".entry")
            elif word == ".alias":
                self.skip_past(";")
            else:
                raise PtxError(f"PTX line {self.tokens[self.at - 1].line}: cannot read {word!r} at module level")
        return self.result

    def variable(self, space: str) -> Variable:
        """The rest of a declaration, up to its semicolon."""
        variable = self.declarator(space[1:])
        if self.taken("="):
            self.initialiser(variable)
        self.take(";")
        return variable

    def declarator(self, space: str) -> Variable:
        align, kind, count, pointer = 0, "", 1, False
        while self.next.startswith("."):
            word = self.take()
            if word == ".align":
                number = self.number()
                align = align if pointer else number  # after .ptr it is what the pointer points to that is aligned
            elif word[1:] in TYPE_BITS:
                kind = word[1:]
            elif word in (".v2", ".v4"):
                count = int(word[2])
            elif word == ".ptr":
                pointer = True
            elif word not in (".global", ".shared", ".const", ".local", ".managed"):
                raise PtxError(f"PTX line {self.line}: cannot read {word!r} in a declaration")
        name = self.take()
        if self.taken("<"):  # a family of .param variables is not emitted by anyone
            raise PtxError(f"PTX line {self.line}: cannot read a numbered variable")
        while self.taken("["):
            count = 0 if self.next == "]" else count * self.number()
            self.take("]")
        size = TYPE_BITS[kind] // 8
        return Variable(name, space, kind, align or size, size * count)

    def initialiser(self, variable: Variable) -> None:
        step = TYPE_BITS[variable.type] // 8
        data, pointers = bytearray(), []
        depth = 0
        while self.next != ";":
            word = self.take()
            if word in "{}":
                depth += (word == "{") - (word == "}")
            elif word == ",":
                continue
            elif re.match(r"[\d-]", word):
                data += _bytes_of(word + (self.take() if word == "-" else ""), variable.type)
            else:
                if word == "generic":
                    self.take("(")
                    word = self.take()
                    self.take(")")
                addend = self.number() if self.taken("+") else 0
                pointers.append((len(data), word, addend))
                data += bytes(step)
        variable.size = max(variable.size, len(data))
        variable.data = bytes(data).ljust(variable.size, b"\0")
        variable.pointers = tuple(pointers)

    # Functions

    def parse_function(self, entry: bool) -> None:
        self.function = function = Function("", entry)
        if self.next == "(":
            function.results = self.formal_parameters()
        function.name = self.take()
        if self.next == "(":
            function.params = self.formal_parameters()
        while self.next != "{" and self.next != ";":
            word = self.take()
            if word in _LIMITS:
                function.limits[word[1:]] = tuple(self.number_list())
            elif word not in (".noreturn", ".unique"):
                raise PtxError(f"PTX line {self.line}: cannot read {word!r} after {function.name}")
        if self.taken(";"):
            function.declared_only = True
            self.result.functions.setdefault(function.name, function)
            return
        self.scope, self.scopes, self.waiting = _Scope(None, 0), 0, []
        for variable in (*function.params, *function.results):
            self.scope.variables[variable.name] = variable.name
        self.body()
        for scope, index in self.waiting:
            function.instructions[index] = self.resolved(function.instructions[index], scope)
        self.result.functions[function.name] = function

    def number_list(self) -> list[int]:
        numbers = []
        while self.tokens[self.at].kind == "number":
            numbers.append(self.number())
            self.taken(",")
        return numbers

    def formal_parameters(self) -> list[Variable]:
        self.take("(")
        params: list[Variable] = []
        offset = 0
        while not self.taken(")"):
            word = self.take()
            if word not in (".param", ".reg"):
                raise PtxError(f"PTX line {self.line}: expected a parameter, found {word!r}")
            variable = self.declarator("param")
            variable.offset = -(-offset // variable.align) * variable.align
            offset = variable.offset + variable.size
            params.append(variable)
            self.taken(",")
        return params

    def body(self) -> None:
        self.take("{")
        depth = 1
        while depth:
            token = self.tokens[self.at]
            if token.text == "{":
                self.take()
                self.scopes += 1
                self.scope = _Scope(self.scope, self.scopes)
                depth += 1
            elif token.text == "}":
                self.take()
                self.scope = self.scope.parent or self.scope
                depth -= 1
            elif token.kind == "word" and self.tokens[self.at + 1].text == ":":
                self.label(self.take())
                self.take(":")
            elif token.kind == "word" and token.text.startswith("."):
                self.directive(self.take())
            elif token.text == ";":
                self.take()
            else:
                self.instruction()

    def label(self, name: str) -> None:
        unique = name if self.scope.parent is None else f"{name}#{self.scope.number}"
        self.scope.labels[name] = unique
        self.function.labels[unique] = len(self.function.instructions)

    def directive(self, word: str) -> None:
        if word == ".reg":
            self.registers()
        elif word in _SPACES:
            variable = self.variable(word)
            name = variable.name
            variable.name = name if self.scope.parent is None else f"{name}#{self.scope.number}"
            self.scope.variables[name] = variable.name
            self.function.variables[variable.name] = variable
        elif word == ".branchtargets":
            names = [self.take()]
            while self.taken(","):
                names.append(self.take())
            self.take(";")
            last = next(reversed(self.function.labels))
            self.function.targets[last] = tuple(names)
        elif word in (".pragma", ".callprototype"):
            self.skip_past(";")
        elif word == ".section":
            self.take()
            self.skip_braces()
        else:
            raise PtxError(f"PTX line {self.line}: cannot read {word!r} in {self.function.name}")

    def registers(self) -> None:
        kind = self.take()[1:]
        if kind not in TYPE_BITS:
            raise PtxError(f"PTX line {self.line}: unknown register type {kind!r}")
        while True:
            name = self.take()
            if self.taken("<"):
                self.scope.ranges[name] = (self.number(), kind)
                self.take(">")
            else:
                self.declare(self.scope, name, kind)
            if not self.taken(","):
                break
        self.take(";")

    def declare(self, scope: _Scope, name: str, kind: str) -> Register:
        register = Register(len(self.function.registers), kind, name)
        self.function.registers.append(register)
        scope.registers[name] = register
        return register

    # Instructions

    def instruction(self) -> None:
        line, guard, start = self.line, None, self.tokens[self.at - 1].end
        if self.taken("@"):
            negated = self.taken("!")
            predicate = self.named(self.take())
            if not isinstance(predicate, Register):
                raise PtxError(f"PTX line {line}: the guard is no register")
            guard = (predicate, negated)
        opcode, *modifiers = self.take().split(".")
        operands: list[Operand] = []
        while not self.taken(";"):
            operands.append(self.operand())
            self.taken(",")
        index = len(self.function.instructions)
        text = _COMMENT.sub(" ", self.text[start : self.tokens[self.at - 1].end])
        text = " ".join(text.split())
        text = text if len(text) <= 100 else text[:97] + "..."
        self.function.instructions.append(
            Instruction(opcode, tuple(modifiers), tuple(operands), guard, line, text.rstrip(";"))
        )
        if opcode in ("bra", "brx", "call"):
            self.waiting.append((self.scope, index))

    def operand(self) -> Operand:
        first = self.simple_operand()
        return Pair(first, self.simple_operand()) if self.taken("|") else first

    def simple_operand(self) -> Operand:
        if self.taken("!"):
            return Negated(self.simple_operand())
        if self.taken("{"):
            return Vector(self.items("}"))
        if self.taken("("):
            return Group(self.items(")"))
        if self.taken("["):
            base = self.simple_operand()
            offset = 0
            if isinstance(base, Symbol):
                base, offset = Symbol(base.name), base.offset
            while self.next in "+-" and self.next:
                sign = -1 if self.take() == "-" else 1
                offset += sign * self.number()
            self.take("]")
            if not isinstance(base, Register | Symbol | Immediate):
                raise PtxError(f"PTX line {self.line}: cannot read an address on {base}")
            return Address(base, offset)
        token = self.tokens[self.at]
        if token.kind == "number" or token.text == "-":
            return self.immediate()
        name = self.take()
        if name == "_":
            return Sink()
        found = self.named(name)
        if isinstance(found, Symbol) and self.next == "+":
            self.take()
            return Symbol(found.name, self.number())
        return found

    def items(self, end: str) -> tuple[Operand, ...]:
        items = []
        while not self.taken(end):
            items.append(self.simple_operand())
            self.taken(",")
        return tuple(items)

    def immediate(self) -> Immediate:
        negative = self.taken("-")
        text = self.take()
        if text[:2] in ("0f", "0F", "0d", "0D"):
            return Immediate(int(text[2:], 16), 32 if text[1] in "fF" else 64)
        value = float(text) if "." in text else int(text.rstrip("U"), 0)
        return Immediate(-value if negative else value)

    def named(self, name: str) -> Operand:
        """The register or variable of this name, the innermost scope first; else a special register or a symbol."""
        scope: _Scope | None = self.scope
        numbered = _NUMBERED.match(name)
        while scope is not None:
            if name in scope.registers:
                return scope.registers[name]
            if numbered and numbered[1] in scope.ranges:
                count, kind = scope.ranges[numbered[1]]
                if int(numbered[2]) < count:
                    return self.declare(scope, name, kind)
            if name in scope.variables:
                return Symbol(scope.variables[name])
            scope = scope.parent
        return Special(name) if name.startswith("%") or name == "WARP_SZ" else Symbol(name)

    def resolved(self, instruction: Instruction, scope: _Scope) -> Instruction:
        def unique(operand: Operand) -> Operand:
            inner: _Scope | None = scope
            while isinstance(operand, Symbol) and inner is not None:
                if operand.name in inner.labels:
                    return Symbol(inner.labels[operand.name])
                inner = inner.parent
            return operand

        operands = tuple(unique(operand) for operand in instruction.operands)
        return Instruction(
            instruction.opcode, instruction.modifiers, operands, instruction.guard, instruction.line, instruction.text
        )


def _bytes_of(word: str, kind: str) -> bytes:
    size = TYPE_BITS[kind] // 8
    if word[:2] in ("0f", "0F", "0d", "0D"):
        return int(word[2:], 16).to_bytes(size, "little")
    if "." in word:
        return struct.pack("<d" if size == 8 else "<f", float(word))
    return (int(word.rstrip("U"), 0) & (1 << (8 * size)) - 1).to_bytes(size, "little")
