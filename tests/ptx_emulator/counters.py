"""What a launch did, in numbers that decide its speed: instructions, bank conflicts, sectors."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from ptx_emulator.access import Space
from ptx_emulator.lanes import Lanes
from ptx_emulator.module import Instruction
from ptx_emulator.program import Program

BANKS, BANK_BYTES, SECTOR_BYTES = 32, 4, 32


@dataclass
class Site:
    """The memory accesses of one instruction.

    Attributes:
        requests: of warps.
        passes: shared: how often the banks are served; global: sectors of 32 bytes touched.
        ideal: shared: the passes without any conflict; global: the fewest sectors that hold the bytes.
    """

    line: int
    text: str
    space: str
    requests: int = 0
    passes: int = 0
    ideal: int = 0


@dataclass
class Report:
    """The counts of a launch. Instructions are counted once a warp, guards not asked."""

    opcodes: Counter[str] = field(default_factory=Counter)
    sites: list[Site] = field(default_factory=list)

    @property
    def instructions(self) -> int:
        return sum(self.opcodes.values())

    @property
    def bank_conflicts(self) -> int:
        """Passes over the shared banks beyond the necessary ones."""
        return sum(site.passes - site.ideal for site in self.sites if site.space == "shared")

    @property
    def sectors_per_request(self) -> float:
        """Of global memory; 4 is the least for 32 lanes of 4 bytes."""
        sites = [site for site in self.sites if site.space == "global"]
        return sum(site.passes for site in sites) / max(1, sum(site.requests for site in sites))

    def of_class(self, *opcodes: str) -> int:
        return sum(self.opcodes[opcode] for opcode in opcodes)


class Counters:
    """Counts while a launch runs."""

    def __init__(self, program: Program):
        self.program = program
        self.blocks = np.zeros(len(program.blocks), np.int64)
        self.sites: dict[tuple[int, str, str], Site] = {}

    def block(self, number: int, warps: int) -> None:
        self.blocks[number] += warps

    def access(self, lanes: Lanes, area: Space, offset: np.ndarray, size: int, instruction: Instruction) -> None:
        """An access of ``size`` bytes by each lane."""
        if area.name not in ("shared", "global"):
            return
        key = (instruction.line, instruction.text, area.name)
        site = self.sites.setdefault(key, Site(*key))
        site.requests += lanes.warps.size
        warp = np.searchsorted(lanes.warps, lanes.index >> 5)
        passes, ideal = (_shared if area.name == "shared" else _global)(warp, lanes, offset, size)
        site.passes += passes
        site.ideal += ideal

    def report(self) -> Report:
        opcodes: Counter[str] = Counter()
        function = self.program.function
        for number, block in enumerate(self.program.blocks):
            end = block.first + len(block.actions) + (block.kind != "fall")
            for instruction in function.instructions[block.first : end]:
                opcodes[instruction.opcode] += int(self.blocks[number])
        return Report(+opcodes, sorted(self.sites.values(), key=lambda site: site.line))


def _shared(warp: np.ndarray, lanes: Lanes, offset: np.ndarray, size: int) -> tuple[int, int]:
    """Accesses of 8 and 16 bytes are served by halves and quarters of a warp, each in one pass without conflicts."""
    words = max(1, size // BANK_BYTES)
    part = warp * 4 + ((lanes.index & 31) * words // 32 if words > 1 else 0)
    word = (offset // BANK_BYTES)[:, None] + np.arange(words)
    key = np.unique(part[:, None].astype(np.int64) << 40 | word)  # lanes that read one word share it
    part_of, bank = key >> 40, key % BANKS
    load = np.bincount(np.unique(part_of, return_inverse=True)[1] * BANKS + bank)
    load = np.pad(load, (0, -load.size % BANKS)).reshape(-1, BANKS)
    return int(load.max(axis=1).sum()), load.shape[0]


def _global(warp: np.ndarray, lanes: Lanes, offset: np.ndarray, size: int) -> tuple[int, int]:
    sector = (offset[:, None] + np.arange(0, max(size, 1), min(size, SECTOR_BYTES))) // SECTOR_BYTES
    touched = np.unique(warp[:, None].astype(np.int64) << 40 | sector).size
    distinct = np.unique(warp.astype(np.int64) << 44 | offset)
    bytes_of_warp = np.bincount(distinct >> 44) * size
    return touched, int((-(-bytes_of_warp // SECTOR_BYTES)).sum())
