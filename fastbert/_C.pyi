"""The compiled kernels. They take addresses, not tensors: the caller owns the memory and keeps it alive."""

from collections.abc import Sequence
from typing import Literal, TypedDict

class BuildInfo(TypedDict):
    version: str
    compiler: str
    cpp_standard: int
    flags: str
    cuda: str
    openmp: str
    openmp_library: str

def build_info() -> BuildInfo:
    """How the extension was built. ``openmp_library`` is the file of the OpenMP runtime that its calls reach."""

def instruction_set() -> Literal["amx", "avx512", "avx2", "generic"]:
    """The instruction set in use: the machine's best, or the lower one that FASTBERT_CPU_ISA named at import.

    Raises:
        ValueError: FASTBERT_CPU_ISA names an unknown set, or one this machine does not have.
    """

def philox4x32(counter: Sequence[int], key: Sequence[int], rounds: int = 7) -> tuple[int, int, int, int]:
    """Philox4x32 (Salmon et al., SC 2011): four random 32-bit words from a counter of four and a key of two."""

def philox_attention_bytes(
    pointer: int,
    batch: int,
    heads: int,
    seq_q: int,
    seq_k: int,
    seed: int,
    offset: int,
    num_threads: int,
    first_sequence: int = 0,
    first_head: int = 0,
    total_heads: int | None = None,
) -> None:
    """Fill a contiguous (batch, heads, seq_q, seq_k) uint8 buffer with the random bytes of attention dropout.

    Args:
        pointer: address of the buffer; may be 0 when it is empty.
        seed: the 64-bit key, in [0, 2^64).
        offset: the counter's last word, modulo 2^32.
        num_threads: at least 1; the bytes do not depend on it.
        first_sequence: of the buffer, in the call it is a part of.
        first_head: as first_sequence.
        total_heads: of that call; None = first_head + heads.
    """

def philox_elementwise_bytes(
    pointer: int, rows: int, columns: int, seed: int, offset: int, site: int, num_threads: int
) -> None:
    """Fill a contiguous (rows, columns) uint8 buffer with the random bytes of element-wise dropout.

    Args:
        pointer: address of the buffer; may be 0 when it is empty.
        seed: the 64-bit key, in [0, 2^64).
        offset: the counter's last word, modulo 2^32.
        site: which dropout of the model this is, in [0, 2^31).
        num_threads: at least 1; the bytes do not depend on it.
    """
