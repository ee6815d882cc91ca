"""What a PTX file says, as plain data: operands, instructions, functions, the module."""

from __future__ import annotations

from dataclasses import dataclass, field

BITS = {"b": (8, 16, 32, 64, 128), "u": (8, 16, 32, 64), "s": (8, 16, 32, 64), "f": (16, 32, 64)}
TYPE_BITS = {f"{kind}{bits}": bits for kind, widths in BITS.items() for bits in widths}
TYPE_BITS |= {"pred": 1, "bf16": 16, "f16x2": 32, "bf16x2": 32, "tf32": 32, "e4m3x2": 16, "e5m2x2": 16}


@dataclass(frozen=True)
class Register:
    slot: int
    type: str  # as declared
    name: str


@dataclass(frozen=True)
class Immediate:
    value: int | float
    bits: int = 0  # 32 or 64 for 0f.../0d..., whose value is the bit pattern; 0 for a plain number


@dataclass(frozen=True)
class Special:
    name: str  # "%tid.x"


@dataclass(frozen=True)
class Symbol:
    name: str
    offset: int = 0


@dataclass(frozen=True)
class Address:
    base: Register | Symbol | Immediate
    offset: int = 0


@dataclass(frozen=True)
class Vector:
    items: tuple[Operand, ...]


@dataclass(frozen=True)
class Pair:
    """``a|b``: the two destinations of setp, shfl and elect."""

    first: Operand
    second: Operand


@dataclass(frozen=True)
class Negated:
    operand: Operand


@dataclass(frozen=True)
class Sink:
    """``_``: a result nobody wants."""


@dataclass(frozen=True)
class Group:
    """``(a, b)``: the arguments or results of a call."""

    items: tuple[Operand, ...]


Operand = Register | Immediate | Special | Symbol | Address | Vector | Pair | Negated | Sink | Group


@dataclass(frozen=True)
class Instruction:
    opcode: str  # "ld"
    modifiers: tuple[str, ...]  # ("global", "v4", "u32")
    operands: tuple[Operand, ...]
    guard: tuple[Register, bool] | None  # predicate, negated
    line: int
    text: str

    @property
    def name(self) -> str:
        return ".".join((self.opcode, *self.modifiers))


@dataclass
class Variable:
    """A named piece of memory: a parameter, or a .shared, .local, .global or .const declaration."""

    name: str
    space: str
    type: str
    align: int
    size: int  # bytes; 0 for the dynamic shared array
    offset: int = 0
    data: bytes | None = None  # initial content of .global and .const
    pointers: tuple[tuple[int, str, int], ...] = ()  # (offset, symbol, addend): addresses in the initial content


@dataclass
class Function:
    """A kernel (``entry``) or a device function."""

    name: str
    entry: bool
    params: list[Variable] = field(default_factory=list)
    results: list[Variable] = field(default_factory=list)
    registers: list[Register] = field(default_factory=list)
    variables: dict[str, Variable] = field(default_factory=dict)  # .shared, .local and .param of the body
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  # index of the instruction that follows
    targets: dict[str, tuple[str, ...]] = field(default_factory=dict)  # .branchtargets
    limits: dict[str, tuple[int, ...]] = field(default_factory=dict)  # maxntid, reqntid, maxnreg, ...
    declared_only: bool = False

    @property
    def param_bytes(self) -> int:
        return max((p.offset + p.size for p in self.params), default=0)


@dataclass
class Module:
    version: str = ""
    target: str = ""
    functions: dict[str, Function] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)

    @property
    def kernels(self) -> dict[str, Function]:
        return {name: function for name, function in self.functions.items() if function.entry}
