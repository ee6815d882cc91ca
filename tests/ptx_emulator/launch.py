"""A launch plan and its execution: what cudaLaunchKernel is given, run over the whole grid."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ptx_emulator.counters import Counters, Report
from ptx_emulator.errors import LaunchError, PtxError
from ptx_emulator.inline import inlined
from ptx_emulator.lanes import Linker, Reader, unknown
from ptx_emulator.machine import Machine
from ptx_emulator.memory import SHARED_START, Buffer, Memory
from ptx_emulator.module import Function, Instruction, Module, Special, Symbol, Variable
from ptx_emulator.options import ORDERS, Options, Order
from ptx_emulator.program import Program
from ptx_emulator.races import Races

MAX_THREADS, MAX_SHARED, MAX_GRID = 1024, 227 * 1024, (2**31 - 1, 65535, 65535)
REGISTER_FILE = 65536
Value = int | float | Buffer | bytes | np.generic


@dataclass(frozen=True)
class Launch:
    """One kernel launch.

    Attributes:
        kernel: name in the PTX; a part of it will do where only one kernel's name contains it.
        grid, block: up to three numbers each.
        params: one value for each parameter (a Buffer for a pointer, bytes for a struct), or all parameters' bytes.
        dynamic_shared: bytes of shared memory beyond those the kernel declares.
        max_shared: bytes a block may have in all on the intended GPU.
    """

    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    params: Sequence[Value] | bytes = ()
    dynamic_shared: int = 0
    max_shared: int = MAX_SHARED


@dataclass(frozen=True)
class Layout:
    """A launch after validation."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    dynamic_shared: int
    local_bytes: int
    params: bytes

    @property
    def threads(self) -> int:
        return self.block[0] * self.block[1] * self.block[2]

    def block_at(self, number: int) -> tuple[int, int, int]:
        return number % self.grid[0], number // self.grid[0] % self.grid[1], number // (self.grid[0] * self.grid[1])


def run(module: Module, launch: Launch, memory: Memory, options: Options | None = None, **choices: object) -> Report:
    """Executes a launch on ``memory``, which it changes. Raises the first mistake found.

    Args:
        options: how to run; ``choices`` are its fields given one by one.

    Returns:
        What was counted (empty unless ``counters``).
    """
    options = replace(options or Options(), **choices)
    function = inlined(find_kernel(module, launch.kernel), module)
    facts = Facts(function, module, launch, memory)
    order = Order(options)
    races = Races(function, options) if options.races else None
    with np.errstate(all="ignore"):
        program = Program(function, Linker(facts))
        counters = Counters(program) if options.counters else None
        layout = facts.layout
        numbers = order.blocks(layout.grid[0] * layout.grid[1] * layout.grid[2])
        together = max(1, options.resident_threads // layout.threads)
        clock = 0
        for start in range(0, numbers.size, together):
            machine = Machine(
                program, layout, memory, options, order, numbers[start : start + together], races, counters
            )
            clock = machine.run(clock)
    return counters.report() if counters is not None else Report()


def run_all_orders(
    module: Module,
    launch: Launch,
    memory: Memory,
    options: Options | None = None,
    equal: Sequence[Buffer] | None = None,
) -> Report:
    """Executes a launch in every order, from the same memory, and requires the same bits in the end.

    Args:
        equal: the buffers to compare; all by default. What float atomics sum up may be left out.

    Raises:
        AssertionError: if two orders differ, naming the buffer and the first byte.
    """
    options = options or Options()
    before, first, report = memory.copy(), None, Report()
    for name in ORDERS:
        mine = memory if first is None else before.copy()
        result = run(module, launch, mine, replace(options, order=name))
        if first is None:
            first, report = mine, result
            continue
        for buffer in memory.buffers if equal is None else equal:
            differ = np.flatnonzero(first.bytes(buffer) != mine.bytes(buffer))
            if differ.size:
                raise AssertionError(
                    f"{launch.kernel}: {buffer.name} differs at byte {differ[0]} between orders {ORDERS[0]} and {name}"
                )
    return report


def find_kernel(module: Module, name: str) -> Function:
    """The kernel of this name, or the only one whose name contains it."""
    kernels = module.kernels
    found = [kernels[name]] if name in kernels else [kernels[key] for key in kernels if name in key]
    if len(found) != 1:
        raise LaunchError(f"{len(found)} kernels match {name!r}; the module has {', '.join(kernels) or 'none'}")
    return found[0]


def pack(params: Sequence[Value] | bytes, function: Function) -> bytes:
    """The parameters' bytes, each at its offset."""
    size = function.param_bytes
    if isinstance(params, bytes):
        if len(params) != size:
            raise LaunchError(f"{function.name} takes {size} bytes of parameters, got {len(params)}")
        return params
    if len(params) != len(function.params):
        raise LaunchError(f"{function.name} takes {len(function.params)} parameters, got {len(params)}")
    packed = bytearray(size)
    for number, (value, variable) in enumerate(zip(params, function.params, strict=True)):
        content = _packed(value, variable)
        if len(content) != variable.size:
            raise LaunchError(
                f"parameter {number} of {function.name} has {variable.size} bytes, the value {len(content)}"
            )
        packed[variable.offset : variable.offset + variable.size] = content
    return bytes(packed)


def _packed(value: Value, variable: Variable) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, np.generic):
        return value.tobytes()
    if isinstance(value, Buffer):
        return value.address.to_bytes(8, "little")
    if isinstance(value, float) and not isinstance(value, int):
        return bytes(ctypes.c_double(value) if variable.size == 8 else ctypes.c_float(value))
    return (int(value) & (1 << 8 * variable.size) - 1).to_bytes(variable.size, "little")


class Facts:
    """The constants of a launch: addresses of names, and special registers."""

    def __init__(self, function: Function, module: Module, launch: Launch, memory: Memory):
        self.function = function
        self.places: dict[str, int] = {}
        self.spaces: dict[str, str] = {}
        shared, self.dynamic_start = self._place_shared(module)
        local = self._place_local()
        for variable in function.params:
            self._name(variable.name, "param", variable.offset)
        self._place_globals(module, memory)
        self.layout = self._validated(launch, shared + launch.dynamic_shared, local)

    def _name(self, name: str, space: str, place: int) -> None:
        self.places[name], self.spaces[name] = place, space

    def _place_shared(self, module: Module) -> tuple[int, int]:
        """Static arrays one after another, the dynamic one behind. Returns their bytes and the latter's address."""
        used = _mentioned(self.function)
        variables = [v for v in (*module.variables.values(), *self.function.variables.values()) if v.space == "shared"]
        end, align = SHARED_START, 16
        for variable in (v for v in variables if v.size and v.name in used):
            end = -(-end // variable.align) * variable.align
            self._name(variable.name, "shared", end)
            end += variable.size
        dynamic = [v for v in variables if not v.size]
        align = max([align, *(v.align for v in dynamic)])
        if dynamic:
            end = -(-end // align) * align
        for variable in dynamic:
            self._name(variable.name, "shared", end)
        return end - SHARED_START, end

    def _place_local(self) -> int:
        end = 0
        for variable in self.function.variables.values():
            if variable.space in ("local", "param"):
                end = -(-end // variable.align) * variable.align
                self._name(variable.name, "local", end)
                end += variable.size
        return end

    def _place_globals(self, module: Module, memory: Memory) -> None:
        """Module variables that the kernel names become buffers, kept from launch to launch."""
        known = {buffer.name: buffer for buffer in memory.buffers}
        used = _mentioned(self.function)
        variables = [v for v in module.variables.values() if v.space in ("global", "const")]
        wanted = {v.name for v in variables if v.name in used}
        for variable in variables:
            if variable.name in wanted:
                wanted.update(symbol for _, symbol, _ in variable.pointers)
        fresh = []
        for variable in variables:
            if variable.name not in wanted:
                continue
            if variable.name not in known:
                content = variable.data or bytes(variable.size)
                known[variable.name] = memory.upload(content, variable.name, read_only=variable.space == "const")
                fresh.append(variable)
            self._name(variable.name, "global", known[variable.name].address)
        for variable in fresh:
            for offset, symbol, addend in variable.pointers:
                if symbol not in self.places:
                    raise PtxError(f"{variable.name} points to {symbol}, which is not among the module's variables")
                memory.write(known[variable.name], np.array([self.places[symbol] + addend], np.uint64), offset)

    def _validated(self, launch: Launch, shared: int, local: int) -> Layout:
        grid, block = (_three(sizes, what) for sizes, what in ((launch.grid, "grid"), (launch.block, "block")))
        threads = block[0] * block[1] * block[2]
        limits = self.function.limits
        if threads > MAX_THREADS or block[2] > 64:
            raise LaunchError(f"a block of {block} threads: at most {MAX_THREADS}, at most 64 of them in z")
        if any(size > most for size, most in zip(grid, MAX_GRID, strict=True)):
            raise LaunchError(f"a grid of {grid} blocks: at most {MAX_GRID}")
        if shared > launch.max_shared:
            raise LaunchError(f"{shared} bytes of shared memory: at most {launch.max_shared}")
        if "reqntid" in limits and _three(limits["reqntid"], "reqntid") != block:
            raise LaunchError(f"a block of {block}: the kernel requires {limits['reqntid']}")
        if "maxntid" in limits and threads > int(np.prod(limits["maxntid"])):
            raise LaunchError(f"a block of {threads} threads: the kernel is compiled for at most {limits['maxntid']}")
        if "maxnreg" in limits and threads * limits["maxnreg"][0] > REGISTER_FILE:
            raise LaunchError(f"{threads} threads of {limits['maxnreg'][0]} registers: more than {REGISTER_FILE}")
        return Layout(grid, block, shared, launch.dynamic_shared, local, pack(launch.params, self.function))

    # What the linker asks

    def address(self, symbol: Symbol, instruction: Instruction) -> int:
        if symbol.name not in self.places:
            raise unknown(instruction, f"nothing is called {symbol.name}")
        return self.places[symbol.name] + symbol.offset

    def space_of_parameter(self, name: str) -> str:
        return self.spaces.get(name, "param")

    def special(self, operand: Special, instruction: Instruction) -> Reader:
        """A special register."""
        name, axis = operand.name, "xyz".find(operand.name[-1])
        sizes = {"%ntid": self.layout.block, "%nctaid": self.layout.grid}
        base = name[:-2] if name[-2:-1] == "." else name
        if base in sizes and axis >= 0:
            size = np.uint32(sizes[base][axis])
            return lambda lanes: np.full(lanes.count, size)
        if base == "%tid" and axis >= 0:
            return lambda lanes: lanes.machine.tid[axis][lanes.index]
        if base == "%ctaid" and axis >= 0:
            return lambda lanes: lanes.machine.ctaid[axis][lanes.index]
        return self._other_special(name, instruction)

    def _other_special(self, name: str, instruction: Instruction) -> Reader:
        constants = {
            "%nwarpid": -(-self.layout.threads // 32),
            "WARP_SZ": 32,
            "%dynamic_smem_size": self.layout.dynamic_shared,
            "%total_smem_size": self.layout.shared_bytes,
            "%cluster_nctarank": 1,
            "%cluster_ctarank": 0,
        }
        masks = {
            "%lanemask_eq": lambda lane: 1 << lane,
            "%lanemask_lt": lambda lane: (1 << lane) - 1,
            "%lanemask_le": lambda lane: (2 << lane) - 1,
            "%lanemask_gt": lambda lane: 0xFFFF_FFFF & -(2 << lane),
            "%lanemask_ge": lambda lane: 0xFFFF_FFFF & -(1 << lane),
        }
        if name in constants:
            value = np.uint32(constants[name])
            return lambda lanes: np.full(lanes.count, value)
        if name in masks:
            table = np.array([masks[name](lane) for lane in range(32)], np.uint32)
            return lambda lanes: table[lanes.index & 31]
        if name == "%laneid":
            return lambda lanes: (lanes.index & 31).astype(np.uint32)
        if name == "%warpid":
            return lambda lanes: (lanes.machine.thread_in_block[lanes.index] >> np.uint32(5)).astype(np.uint32)
        if name in ("%clock", "%clock_hi", "%clock64", "%globaltimer"):  # counts instructions: no time is modelled
            return lambda lanes: np.full(lanes.count, lanes.machine.now, np.uint64)
        raise unknown(instruction, f"special register {name}")


def _three(sizes: Sequence[int], what: str) -> tuple[int, int, int]:
    if not 1 <= len(sizes) <= 3 or any(int(size) < 1 for size in sizes):
        raise LaunchError(f"{what} {tuple(sizes)}: one to three numbers of at least 1")
    x, y, z = (*(int(size) for size in sizes), 1, 1)[:3]
    return x, y, z


def _mentioned(function: Function) -> set[str]:
    """The names of variables that a function's instructions use."""
    names: set[str] = set()
    waiting = [operand for instruction in function.instructions for operand in instruction.operands]
    while waiting:
        operand = waiting.pop()
        if isinstance(operand, Symbol):
            names.add(operand.name)
        for attribute in ("items", "base", "operand", "first", "second"):
            inner = getattr(operand, attribute, ())
            waiting.extend(inner if isinstance(inner, tuple) else [inner])
    return names
