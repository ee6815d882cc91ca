"""Memory with a shadow: what belongs to somebody, what was written, what an unfinished copy owns.

One 64-bit address space holds everything. Global allocations lie above GLOBAL_BASE, and three windows hold the shared,
local and parameter spaces of the thread that asks; inside ld.shared and its like an address counts from the window's
start.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PARAM_WINDOW = 0x7F10_0000_0000
SHARED_WINDOW = 0x7F20_0000_0000
LOCAL_WINDOW = 0x7F30_0000_0000
WINDOW_BYTES = 0x10_0000_0000
GLOBAL_BASE = 0x7F40_0000_0000
SHARED_START = 1024  # nothing lies below, so that an address of 0 or a negative index is seen
ALLOCATED, WRITTEN, PENDING, READ_ONLY = 1, 2, 4, 8
ALIGNMENT = 256  # what cudaMalloc gives
MIN_RED_ZONE, MAX_RED_ZONE = 4096, 1 << 20  # a row or a tile past the end still falls into it


class Arena:
    """Bytes and their shadow, readable in items of 1 to 32 bytes."""

    def __init__(self, size: int):
        self.size = -(-size // 32) * 32
        self.data = np.zeros(self.size, np.uint8)
        self.state = np.zeros(self.size, np.uint8)
        self._views: dict[tuple[str, int, bool], np.ndarray] = {}

    def view(self, bits: int, count: int, state: bool = False) -> np.ndarray:
        """The bytes (or their shadow) as rows of ``count`` unsigned integers of ``bits``."""
        key = (f"u{bits // 8}", count, state)
        if key not in self._views:
            source = self.state if state else self.data
            self._views[key] = source.view(key[0]).reshape(-1, count)
        return self._views[key]


@dataclass(frozen=True)
class Buffer:
    """An allocation of global memory. As a launch parameter it stands for its address."""

    address: int
    size: int  # bytes
    name: str

    def __index__(self) -> int:
        return self.address


class Memory:
    """Global memory: allocations of a host program, which outlive launches."""

    def __init__(self) -> None:
        self.arena = Arena(1 << 16)
        self.buffers: list[Buffer] = []
        self._used = MIN_RED_ZONE

    def empty(self, size: int, name: str = "") -> Buffer:
        """``size`` bytes that nobody has written: reading them in a kernel is an error."""
        red_zone = min(max(MIN_RED_ZONE, size), MAX_RED_ZONE)
        start = -(-(self._used + red_zone) // ALIGNMENT) * ALIGNMENT
        self._used = start + size
        self._grow(self._used + red_zone)
        self.arena.state[start : start + size] = ALLOCATED
        buffer = Buffer(GLOBAL_BASE + start, size, name or f"buffer{len(self.buffers)}")
        self.buffers.append(buffer)
        return buffer

    def upload(self, array: np.ndarray | bytes, name: str = "", read_only: bool = False) -> Buffer:
        """A copy of an array's bytes, all of them written."""
        content = np.frombuffer(array, np.uint8) if isinstance(array, bytes) else np.ascontiguousarray(array)
        content = content.reshape(-1).view(np.uint8)
        buffer = self.empty(content.size, name)
        self.write(buffer, content)
        if read_only:
            self.arena.state[self._slice(buffer)] |= READ_ONLY
        return buffer

    def write(self, buffer: Buffer, array: np.ndarray, offset: int = 0) -> None:
        """Copies an array's bytes to a buffer, from byte ``offset`` on."""
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if offset + content.size > buffer.size:
            raise ValueError(f"{content.size} bytes at {offset} do not fit in {buffer.name}, {buffer.size} bytes")
        start = buffer.address - GLOBAL_BASE + offset
        self.arena.data[start : start + content.size] = content
        self.arena.state[start : start + content.size] |= WRITTEN

    def read(self, buffer: Buffer, dtype: np.dtype | type | str, shape: tuple[int, ...] = (-1,)) -> np.ndarray:
        """A copy of a buffer's content. Raises ValueError where a byte of it was never written."""
        missing = np.flatnonzero(~self.written(buffer))
        if missing.size:
            raise ValueError(
                f"{buffer.name}: {missing.size} of {buffer.size} bytes never written, the first at {missing[0]}"
            )
        return self.bytes(buffer).view(dtype).reshape(shape)

    def bytes(self, buffer: Buffer) -> np.ndarray:
        """A copy of a buffer's bytes, written or not (those not written read as 0)."""
        return self.arena.data[self._slice(buffer)].copy()

    def written(self, buffer: Buffer) -> np.ndarray:
        """For every byte of a buffer whether something wrote it."""
        return (self.arena.state[self._slice(buffer)] & WRITTEN) != 0

    def copy(self) -> Memory:
        """The same allocations at the same addresses with their present content."""
        other = Memory()
        other._used, other.buffers = self._used, list(self.buffers)
        other.arena = Arena(self.arena.size)
        other.arena.data[:], other.arena.state[:] = self.arena.data, self.arena.state
        return other

    def nearest(self, address: int) -> str:
        """Words for an address: the buffer it lies in, or the closest one."""
        if not self.buffers:
            return "no buffer"
        buffer = min(self.buffers, key=lambda b: max(b.address - address, address - (b.address + b.size) + 1, 0))
        return f"{address - buffer.address:+d} bytes from the start of {buffer.name} ({buffer.size} bytes)"

    def _slice(self, buffer: Buffer) -> slice:
        start = buffer.address - GLOBAL_BASE
        return slice(start, start + buffer.size)

    def _grow(self, size: int) -> None:
        if size <= self.arena.size:
            return
        larger = Arena(max(size, 2 * self.arena.size))
        larger.data[: self.arena.size], larger.state[: self.arena.size] = self.arena.data, self.arena.state
        self.arena = larger
