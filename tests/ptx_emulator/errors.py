"""What the emulator reports: one class for each kind of mistake a kernel can make."""

from __future__ import annotations

from dataclasses import dataclass


class PtxError(Exception):
    """A module, a launch or an instruction that the emulator cannot take."""


class UnknownInstructionError(PtxError):
    """An opcode, modifier or operand that no table holds. Never skipped: a skipped instruction proves nothing."""


class LaunchError(PtxError):
    """A launch that the hardware would refuse: grid, block, shared bytes, registers, parameters."""


@dataclass(frozen=True)
class Place:
    """Where a thread stood: kernel, PTX line and text, block and thread coordinates."""

    kernel: str
    line: int
    text: str
    block: tuple[int, int, int] | None = None
    thread: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        where = f"{self.kernel}, PTX line {self.line} `{self.text}`"
        return where if self.thread is None else f"{where}, block {self.block}, thread {self.thread}"


class ExecutionError(PtxError):
    """A mistake found while a kernel ran. ``place`` and ``address`` say where."""

    def __init__(self, detail: str, place: Place, address: int | None = None):
        at = "" if address is None else f", address {address:#x}"
        super().__init__(f"{place}{at}: {detail}")
        self.detail, self.place, self.address = detail, place, address


class OutOfBoundsError(ExecutionError):
    """An access to bytes that belong to no allocation, or a write to read-only ones."""


class MisalignedError(ExecutionError):
    """An address that is no multiple of the access's size."""


class UninitialisedError(ExecutionError):
    """A read of bytes that nothing has written."""


class UnwaitedCopyError(ExecutionError):
    """A touch of bytes that a cp.async still owns: its thread has not waited for it."""


class RaceError(ExecutionError):
    """Two accesses to the same bytes, one of them a write, that nothing orders."""


class DivergenceError(ExecutionError):
    """A warp-wide instruction reached by a part of the threads it needs."""


class DeadlockError(ExecutionError):
    """No thread can go on, or the instruction limit is reached."""


class IllegalInstructionError(ExecutionError):
    """A trap, a failed assertion, or an operand the ISA forbids."""
