"""Loads and stores of many threads at once, checked against the shadow of the memory they touch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ptx_emulator.errors import ExecutionError, MisalignedError, OutOfBoundsError, UninitialisedError, UnwaitedCopyError
from ptx_emulator.lanes import Lanes
from ptx_emulator.memory import (
    ALLOCATED,
    GLOBAL_BASE,
    LOCAL_WINDOW,
    PARAM_WINDOW,
    PENDING,
    READ_ONLY,
    SHARED_WINDOW,
    WINDOW_BYTES,
    WRITTEN,
    Arena,
)
from ptx_emulator.module import Instruction

if TYPE_CHECKING:
    from ptx_emulator.machine import Machine

WINDOWS = {"param": PARAM_WINDOW, "shared": SHARED_WINDOW, "local": LOCAL_WINDOW, "global": 0, "const": 0}
_READ_MASK, _READ_WANTED = ALLOCATED | WRITTEN | PENDING, ALLOCATED | WRITTEN
_WRITE_MASK, _WRITE_WANTED = ALLOCATED | PENDING | READ_ONLY, ALLOCATED


def _repeated(byte: int, bits: int) -> np.generic:
    return np.array([byte] * (bits // 8), np.uint8).view(f"u{bits // 8}")[0]


@dataclass
class Space:
    """One state space of the resident blocks: its bytes and how they are shared out."""

    name: str
    arena: Arena
    stride: int  # bytes of one owner
    owner: str  # "all", "block" or "thread"

    def offsets(self, lanes: Lanes, address: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Offsets into the arena, and for every lane whether the address lies in the space at all."""
        relative = address - np.uint64(GLOBAL_BASE) if self.owner == "all" and self.name != "param" else address
        inside = relative <= np.uint64(max(self.stride - size, 0))
        offset = relative.astype(np.int64)
        if self.owner == "block":
            offset = offset + lanes.block * self.stride
        elif self.owner == "thread":
            offset = offset + lanes.index * self.stride
        return offset, inside


class Access:
    """Every load and store of a machine goes through here."""

    def __init__(self, machine: Machine, spaces: dict[str, Space]):
        self.machine = machine
        self.spaces = spaces

    def load(
        self,
        lanes: Lanes,
        space: str,
        address: np.ndarray,
        bits: int,
        count: int,
        instruction: Instruction,
        kind: str = "read",
    ) -> np.ndarray:
        """``count`` items of ``bits`` for every lane: (lanes, count) unsigned. ``kind`` is "read" or "atomic"."""
        address = self.broadcast(lanes, address)
        if space == "generic":
            return self._by_space(
                lanes,
                address,
                lambda part, name, where, _: self.load(part, name, where, bits, count, instruction, kind),
            )
        area, offset = self._locate(lanes, space, address, bits * count // 8, instruction)
        self._check(lanes, area, offset, bits * count // 8, instruction, address, read=True)
        self._observe(lanes, area, offset, bits * count // 8, instruction, kind)
        return area.arena.view(bits, count)[offset // (bits * count // 8)]

    def store(
        self,
        lanes: Lanes,
        space: str,
        address: np.ndarray,
        values: np.ndarray,
        instruction: Instruction,
        kind: str = "write",
    ) -> None:
        """Stores (lanes, count) unsigned items."""
        address = self.broadcast(lanes, address)
        if space == "generic":
            self._by_space(
                lanes,
                address,
                lambda part, name, where, mask: self.store(part, name, where, values[mask], instruction, kind),
            )
            return
        bits, count = values.dtype.itemsize * 8, values.shape[1]
        size = bits * count // 8
        area, offset = self._locate(lanes, space, address, size, instruction)
        self._check(lanes, area, offset, size, instruction, address, read=False)
        rows, view = offset // size, area.arena.view(bits, count)
        races = self.machine.races
        if races is not None and area.name in ("shared", "global"):
            races.write(lanes, area, offset, size, instruction, kind, values)
        self._count(lanes, area, offset, size, instruction)
        view[rows] = values
        area.arena.view(bits, count, state=True)[rows] = _repeated(ALLOCATED | WRITTEN, bits)

    def locate(
        self, lanes: Lanes, space: str, address: np.ndarray, size: int, instruction: Instruction, read: bool
    ) -> tuple[Space, np.ndarray]:
        """The checked place of an access that moves its bytes by itself."""
        address = self.broadcast(lanes, address)
        area, offset = self._locate(lanes, space, address, size, instruction)
        self._check(lanes, area, offset, size, instruction, address, read)
        return area, offset

    def aligned(self, lanes: Lanes, address: np.ndarray, size: int, instruction: Instruction) -> None:
        """Raises MisalignedError where an address is no multiple of ``size``."""
        wrong = (address & np.uint64(size - 1)) != 0
        if wrong.any():
            lane = int(wrong.argmax())
            raise self.error(
                MisalignedError, f"not aligned to {size} bytes", lanes, instruction, lane, int(address[lane])
            )

    def space_of(self, lanes: Lanes, address: np.ndarray, instruction: Instruction) -> tuple[str, np.ndarray]:
        """The one space that generic addresses lie in, and the addresses inside it."""
        names = np.unique(address >> np.uint64(36))
        if names.size != 1:
            raise self.error(ExecutionError, "addresses of one instruction in several spaces", lanes, instruction, 0)
        name = _space_name(int(names[0]))
        return name, address - np.uint64(WINDOWS[name])

    def broadcast(self, lanes: Lanes, address: np.ndarray) -> np.ndarray:
        return address if np.ndim(address) else np.full(lanes.count, address, np.uint64)

    def error(
        self,
        kind: type[ExecutionError],
        detail: str,
        lanes: Lanes,
        instruction: Instruction,
        lane: int,
        address: int | None = None,
    ) -> ExecutionError:
        return kind(detail, self.machine.place(instruction, int(lanes.index[lane])), address)

    def address_at(self, area: Space, offset: int) -> int:
        """The address, as an instruction of that space names it, of a place in an arena."""
        return offset % area.stride if area.owner != "all" else offset + (GLOBAL_BASE if area.name == "global" else 0)

    def _by_space(self, lanes: Lanes, address: np.ndarray, act: object) -> np.ndarray:
        window = address >> np.uint64(36)
        result: np.ndarray | None = None
        for number in np.unique(window):
            mask = window == number
            name = _space_name(int(number))
            everyone = bool(mask.all())
            part = lanes if everyone else lanes.where(mask)
            inner = (address if everyone else address[mask]) - np.uint64(WINDOWS[name])
            values = act(part, name, inner, mask)
            if everyone or values is None:
                result = values
            else:
                result = np.zeros((lanes.count, values.shape[1]), values.dtype) if result is None else result
                result[mask] = values
        return result

    def _locate(
        self, lanes: Lanes, space: str, address: np.ndarray, size: int, instruction: Instruction
    ) -> tuple[Space, np.ndarray]:
        area = self.spaces[space]
        self.aligned(lanes, address, size, instruction)
        offset, inside = area.offsets(lanes, address, size)
        if not inside.all():
            lane = int((~inside).argmax())
            raise self._out_of_bounds(lanes, area, int(address[lane]), size, instruction, lane)
        return area, offset

    def _check(
        self,
        lanes: Lanes,
        area: Space,
        offset: np.ndarray,
        size: int,
        instruction: Instruction,
        address: np.ndarray,
        read: bool,
    ) -> None:
        bits = min(8 * size, 64)
        state = area.arena.view(bits, 8 * size // bits, state=True)[offset // size]
        mask, wanted = (_READ_MASK, _READ_WANTED) if read else (_WRITE_MASK, _WRITE_WANTED)
        wrong = (state & _repeated(mask, bits)) != _repeated(wanted, bits)
        if not wrong.any():
            return
        lane = int(wrong.any(axis=1).argmax())
        at = int(address[lane])
        states = area.arena.state[int(offset[lane]) : int(offset[lane]) + size]
        if not (states & ALLOCATED).all() or (not read and (states & READ_ONLY).any()):
            raise self._out_of_bounds(lanes, area, at, size, instruction, lane)
        if (states & PENDING).any():
            owner = self.machine.copies.owner(area, int(offset[lane]), size)
            raise self.error(
                UnwaitedCopyError, f"{size} bytes that a cp.async still fills ({owner})", lanes, instruction, lane, at
            )
        raise self.error(
            UninitialisedError, f"{size} bytes of {area.name} memory never written", lanes, instruction, lane, at
        )

    def _out_of_bounds(
        self, lanes: Lanes, area: Space, address: int, size: int, instruction: Instruction, lane: int
    ) -> ExecutionError:
        if area.name == "shared":
            detail = f"{size} bytes outside the block's {self.machine.shared_bytes} bytes of shared memory"
        elif area.name == "global":
            detail = f"{size} bytes outside every allocation, {self.machine.memory.nearest(address)}"
        else:
            detail = f"{size} bytes outside {area.name} memory"
        return self.error(OutOfBoundsError, detail, lanes, instruction, lane, address)

    def _observe(
        self, lanes: Lanes, area: Space, offset: np.ndarray, size: int, instruction: Instruction, kind: str
    ) -> None:
        races = self.machine.races
        if races is not None and area.name in ("shared", "global"):
            races.read(lanes, area, offset, size, instruction, atomic=kind == "atomic")
        self._count(lanes, area, offset, size, instruction)

    def _count(self, lanes: Lanes, area: Space, offset: np.ndarray, size: int, instruction: Instruction) -> None:
        counters = self.machine.counters
        if counters is not None:
            counters.access(lanes, area, offset, size, instruction)


def _space_name(number: int) -> str:
    for name in ("param", "shared", "local"):
        if number == WINDOWS[name] // WINDOW_BYTES:
            return name
    return "global"
