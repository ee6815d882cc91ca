"""Tile sizes, warps and pipeline stages of all kernels: pure functions, no search at run time.

A first call compiles one configuration and runs it. kernels/README.md says where the numbers come from.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Configuration:
    """One way to compile a kernel.

    Attributes:
        block_q: queries of a tile, a multiple of 16.
        block_k: keys of a tile, a multiple of 32.
        num_warps: warps of a program.
        num_stages: tiles on their way from global to shared memory.
    """

    block_q: int
    block_k: int
    num_warps: int
    num_stages: int


SMALLEST_DIM = 16
# Widest head_dim -> (forward, backward_q, backward_k), each (block_q, block_k, num_warps, num_stages).
_Tiles = tuple[int, int, int, int]
_ByDim = dict[int, tuple[_Tiles, _Tiles, _Tiles]]

# NVIDIA has no matrix instruction for float32 as it is: multiply-adds, for which tiles are small on every generation.
_FLOAT32: _ByDim = {
    64: ((64, 32, 8, 2), (32, 32, 4, 2), (32, 32, 4, 2)),
    128: ((32, 32, 8, 2), (32, 32, 8, 1), (32, 32, 8, 1)),
    256: ((32, 32, 8, 1), (16, 32, 8, 1), (16, 32, 8, 1)),
}
# Architecture -> bytes of a number -> tiles.
_TABLE: dict[str, dict[int, _ByDim]] = {
    # 99 KB of shared memory at most: what a block may have on sm_86, sm_89 and sm_120, which use this row too.
    "ampere": {
        2: {
            64: ((128, 64, 4, 3), (128, 64, 8, 2), (32, 128, 8, 2)),
            128: ((128, 64, 8, 2), (64, 32, 4, 2), (32, 64, 8, 2)),
            256: ((64, 32, 8, 1), (32, 32, 4, 1), (16, 64, 8, 1)),
        },
        4: _FLOAT32,
    },
    "hopper": {
        2: {
            64: ((128, 64, 4, 3), (128, 64, 8, 2), (32, 128, 8, 2)),
            128: ((128, 64, 8, 2), (64, 32, 4, 2), (32, 64, 8, 2)),
            256: ((64, 32, 8, 2), (64, 32, 8, 2), (16, 64, 8, 1)),
        },
        4: _FLOAT32,
    },
    "blackwell": {
        2: {
            64: ((128, 64, 4, 3), (128, 64, 8, 2), (32, 128, 8, 2)),
            128: ((128, 64, 8, 2), (64, 32, 4, 2), (32, 64, 8, 2)),
            256: ((64, 32, 8, 2), (64, 32, 8, 2), (32, 64, 8, 1)),
        },
        # tcgen05 takes 64 rows or more, and Triton 3.7 hands it float32 as TensorFloat-32 where "ieee" was asked for.
        4: _FLOAT32 | {64: ((32, 32, 4, 2), (32, 32, 4, 2), (32, 32, 4, 2))},
    },
    # 64 KB of shared memory, 64 threads a warp, 512 registers each at four warps.
    "cdna": {
        2: {
            64: ((128, 64, 4, 1), (64, 64, 4, 1), (32, 64, 4, 1)),
            128: ((128, 32, 4, 1), (64, 32, 4, 1), (32, 64, 4, 1)),
            256: ((64, 32, 4, 1), (32, 32, 4, 1), (16, 32, 4, 1)),
        },
        4: {
            64: ((64, 32, 4, 1), (32, 32, 4, 1), (32, 32, 4, 1)),
            128: ((64, 32, 4, 1), (32, 32, 4, 1), (16, 32, 4, 1)),
            256: ((32, 32, 4, 1), (16, 32, 4, 1), (16, 32, 4, 1)),
        },
    },
}


def padded(head_dim: int) -> int:
    """The width of a tile: the next power of two, and what a matrix instruction takes at least."""
    return max(SMALLEST_DIM, 1 << (head_dim - 1).bit_length())


def architecture(backend: str, arch: int | str) -> str:
    """The row of the table for a target as Triton names it: ("cuda", 90), ("hip", "gfx942")."""
    if backend == "hip":
        return "cdna"
    # Consumer Blackwell (120) has mma.sync alone, as Ampere.
    return {9: "hopper", 10: "blackwell", 11: "blackwell"}.get(int(arch) // 10, "ampere")


def float32_precision(architecture: str) -> str:
    """How float32 factors are multiplied."""
    return "ieee"


def configuration(kernel: str, architecture: str, itemsize: int, dim: int) -> Configuration:
    """The table's entry.

    Args:
        kernel: "forward", "backward_q" or "backward_k".
        architecture: see :func:`architecture`, or "interpreter".
        itemsize: bytes of a number of q.
        dim: the padded head_dim.
    """
    if architecture == "interpreter":
        return Configuration(32, 64, 4, 1)  # small enough that short sequences have tiles of every kind
    tiles = next(tiles for widest, tiles in _TABLE[architecture][itemsize].items() if dim <= widest)
    return Configuration(*tiles[("forward", "backward_q", "backward_k").index(kernel)])


@dataclass(frozen=True)
class RowTile:
    """How a kernel over rows of activations is compiled.

    Attributes:
        rows: of a tile.
        columns: of a tile, a power of two.
        num_warps: warps of a program.
    """

    rows: int
    columns: int
    num_warps: int


WIDEST_ROW = 16384  # of the kernels that hold whole rows
_NUMBERS = 4096  # of a tile, where rows are not wider
_MOST_CHUNKS = 512
_FEWEST_TILES = 4  # of a chunk, or its sums would be as much to write as the rows


def row_tile(columns: int, *, whole: bool) -> RowTile:
    """The tile for activations of so many columns; ``whole``: one tile spans them all, at most WIDEST_ROW."""
    padded_columns = max(SMALLEST_DIM, 1 << (columns - 1).bit_length())
    if not whole:
        padded_columns = min(padded_columns, 1024)
    return RowTile(max(1, _NUMBERS // padded_columns), padded_columns, 8 if padded_columns <= _NUMBERS else 16)


def class_block(classes: int) -> tuple[int, int]:
    """How many logits of a row cross entropy reads at once, and its warps."""
    block = min(_NUMBERS, max(128, 1 << (classes - 1).bit_length()))
    return block, 8 if block > 1024 else 4


def rows_of_a_chunk(rows: int, block_rows: int) -> int:
    """How many rows one program sums gradients of parameters over: the same on every GPU, so the sums are the same."""
    tiles = -(-rows // block_rows)
    return block_rows * max(_FEWEST_TILES, -(-tiles // _MOST_CHUNKS))


def contracts(file: str) -> bool:
    """Whether the kernels of a file may contract products and sums to multiply-adds.

    GELU's polynomial would take half as long again without. Of the others memory sets the pace, and a residual sum has
    the bits of its definition, in the backward as in the forward.
    """
    return file == "bias_gelu"
