"""What the assembler makes of the CUDA kernels: the occupancy that csrc/cuda/README.md plans, and the code of loops."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import networkx
import pytest
from emulated_cuda import CUDA, cuda_build, needs_nvcc

pytestmark = needs_nvcc

# CUDA C++ Programming Guide, table of technical specifications; a block takes 1 KB of shared memory for the system.
REGISTERS, RESERVED = 65536, 1024
SHARED = {"sm_80": 164 << 10, "sm_86": 100 << 10, "sm_90": 228 << 10}


@dataclass(frozen=True)
class Planned:
    """What an instance's place in csrc/cuda/README.md rests on.

    Attributes:
        threads: of a block.
        shared: bytes of its dynamic shared memory.
        blocks: that share a multiprocessor, without dropout and with it.
        products: matrix instructions of a warp for one tile that is seen whole.
    """

    threads: int
    shared: int
    blocks: tuple[int, int]
    products: int


FORWARD = {
    "32": Planned(128, 24_576, (3, 2), 64),
    "64": Planned(128, 49_152, (2, 2), 128),
    "96": Planned(128, 49_152, (2, 2), 96),
    "128": Planned(128, 65_536, (2, 2), 128),
    "256": Planned(128, 65_536, (2, 2), 128),
}
BACKWARD = {
    "32_128x64": Planned(128, 50_176, (2, 2), 160),
    "64_128x64": Planned(128, 82_944, (2, 2), 320),
    "96_128x64": Planned(256, 133_120, (1, 1), 240),
    "128_128x64": Planned(256, 165_888, (1, 1), 320),
    "256_64x32": Planned(256, 140_288, (1, 1), 160),
}
BACKWARD_OF_LITTLE_SHARED_MEMORY = {
    "64_128x32": Planned(256, 59_392, (1, 1), 80),
    "96_64x64": Planned(256, 92_160, (1, 1), 120),
    "128_64x32": Planned(256, 74_752, (1, 1), 80),
    "256_32x32": Planned(128, 70_144, (1, 1), 160),
}
ALL = [
    *((arch, f"forward_{element}_{name}", planned) for arch in ("sm_80", "sm_90") for element in ("bf16", "f16")
      for name, planned in FORWARD.items()),
    *((arch, f"backward_{element}_{name}", planned) for arch in ("sm_80", "sm_90") for element in ("bf16", "f16")
      for name, planned in BACKWARD.items()),
    *(("sm_86", f"backward_{element}_{name}", planned) for element in ("bf16", "f16")
      for name, planned in BACKWARD_OF_LITTLE_SHARED_MEMORY.items()),
]  # fmt: skip
ORDINARY = [("sm_80", "forward_bf16_64", FORWARD["64"]), ("sm_90", "backward_bf16_64_128x64", BACKWARD["64_128x64"])]

RESOURCES = re.compile(
    r"(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers(?:.*?(\d+) bytes smem)?[^\n]*", re.S
)
# As the disassembler writes them: /*0a10*/ @!P0 HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);")
ENDS = ("BRA", "EXIT", "RET")  # where not under a condition, what follows is reached from elsewhere


@cache
def disassembler() -> Path | None:
    """Triton's wheel has one."""
    try:
        from triton import knobs
    except ImportError:
        return None
    return Path(knobs.nvidia.cuobjdump.path)


def compiled(name: str, arch: str, directory: Path) -> tuple[Path, dict[str, tuple[int, ...]]]:
    """The machine code of an instance; by kernel, bytes of spill stores and loads, registers, static shared bytes."""
    instance: Any
    (instance,) = (x for x in cuda_build().instances() if x.name == f"attention_{name}")
    cubin = directory / "out.cubin"
    flags = ("-cubin", f"-arch={arch}", "-std=c++17", "-O3", "-Xptxas", "-v", *instance.flags)
    command = ["nvcc", *flags, "-o", str(cubin), str(CUDA / instance.source)]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found = {}
    for part in report.split("Compiling entry function '")[1:]:
        match = RESOURCES.search(part)
        assert match is not None, part
        found[part.split("'")[0].removeprefix("fastbert_attention_")] = tuple(int(n or 0) for n in match.groups())
    return cubin, found


def walks(cubin: Path) -> dict[str, Counter[str]]:
    """By kernel: the instructions of its largest loop, wherever the assembler has put them, counted."""
    tool = disassembler()
    assert tool is not None
    text = subprocess.run([tool, "-sass", str(cubin)], capture_output=True, text=True, check=True).stdout
    found = {}
    for part in text.split("Function : ")[1:]:
        code = [(int(at, 16), bool(condition), name, rest) for at, condition, name, rest in INSTRUCTION.findall(part)]
        flow = networkx.DiGraph()
        for (at, condition, name, rest), following in zip(code, [*code[1:], None], strict=True):
            if following is not None and (condition or not name.startswith(ENDS)):
                flow.add_edge(at, following[0])
            if name.startswith("BRA"):
                flow.add_edge(at, int(re.findall(r"0x([0-9a-f]+)", rest)[-1], 16))
        walk = max(networkx.strongly_connected_components(flow), key=len)
        kernel = part.split()[0].removeprefix("fastbert_attention_")
        found[kernel] = Counter(name for at, _, name, _ in code if at in walk)
    return found


def count(body: Counter[str], start: str) -> int:
    return sum(number for name, number in body.items() if name.startswith(start))


def check(arch: str, name: str, planned: Planned, directory: Path) -> None:
    cubin, found = compiled(name, arch, directory)
    assert set(found) == {name, f"{name}_dropout"}
    for kernel, (stores, loads, registers, static) in found.items():
        blocks = planned.blocks[kernel.endswith("_dropout")]
        assert (stores, loads) == (0, 0), kernel
        assert -(-registers // 8) * 8 * planned.threads * blocks <= REGISTERS, kernel
        assert (planned.shared + static + RESERVED) * blocks <= SHARED[arch], kernel
    if disassembler() is None:
        pytest.skip("the disassembler comes with triton, which is not installed")
    for kernel, walk in walks(cubin).items():
        # Loops over steps and keys inside a tile are unrolled in part.
        assert count(walk, "HMMA.16816.F32") >= planned.products / 2, kernel
        assert count(walk, "LDSM") > 0, kernel
        assert count(walk, "LDGSTS") == count(walk, "LDGSTS.E.BYPASS.128") > 0, kernel
        assert count(walk, "LDL") + count(walk, "STL") == 0, kernel


@pytest.mark.parametrize(("arch", "name", "planned"), ORDINARY, ids=[f"{arch}-{name}" for arch, name, _ in ORDINARY])
def test_resources_and_code(arch: str, name: str, planned: Planned, tmp_path: Path) -> None:
    check(arch, name, planned, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "name", "planned"), ALL, ids=[f"{arch}-{name}" for arch, name, _ in ALL])
def test_resources_and_code_of_every_instance(arch: str, name: str, planned: Planned, tmp_path: Path) -> None:
    check(arch, name, planned, tmp_path)
