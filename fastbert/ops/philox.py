"""The dropout bits: Philox4x32-7, addressed by position, so that every backend drops the same elements.

The generator is the counter-based one of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), with
seven rounds and the 64-bit seed as its key. A random byte belongs to a place, not to a moment: query ``i`` and key
``j`` of head ``h`` in sequence ``b`` always read the same byte of the same call, whichever kernel, layout or thread
asks. That is why the backward needs nothing but the ``rng`` pair, and why packed and padded batches drop alike.

An ``rng`` is an int64 tensor ``(seed, offset)``. The seed's two's complement is the key; only the low 32 bits of the
offset count. A model draws one pair a forward and gives each layer its own offset.

The functions here are the definition, in int64 arithmetic that any device has. On the CPU the compiled extension
fills the same buffers faster, bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastbert.ops import extension

ROUNDS = 7
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF
_ELEMENTWISE = 1 << 31

# The tile of scores that one warp of tensor-core threads holds; see attention_bytes.
_TILE_Q = 16
_TILE_K = 32
_BYTES_PER_CALL = 16


def philox4x32(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor], rounds: int = ROUNDS
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32: four counter words and two key words in, four random words out.

    Args:
        counter: four int64 tensors of 32-bit unsigned values, of shapes that broadcast against each other.
        key: two int64 tensors of 32-bit unsigned values, low word first.
        rounds: 7 here; 10 is the paper's conservative choice.

    Returns:
        Four int64 tensors of 32-bit unsigned values.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 = (k0 + _KEY_INCREMENTS[0]) & _WORD
        k1 = (k1 + _KEY_INCREMENTS[1]) & _WORD
    return c0, c1, c2, c3


def _multiply(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    # The 64-bit product wraps into the sign bit; masking after the arithmetic shift recovers the unsigned high word.
    product = word * multiplier
    return (product >> 32) & _WORD, product & _WORD


def attention_bytes(
    rng: Tensor,
    batch: int,
    heads: int,
    seq_q: int,
    seq_k: int,
    *,
    first_sequence: int = 0,
    first_head: int = 0,
    total_heads: int | None = None,
) -> Tensor:
    """The random byte of every attention weight of a call, or of some of its sequences and heads.

    Query ``i``, key ``j`` of head ``h`` in sequence ``b`` reads byte ``(j % 2) + 2 * ((i % 16) // 8)``, little-endian,
    of word ``(j % 32) // 8`` of the call with counter
    ``((j // 32) * 32 + (i % 8) * 4 + (j % 8) // 2,  i // 16,  b * total_heads + h,  offset)``. One call so serves the
    16 scores of a 16 x 32 tile that one thread holds in a tensor core's accumulator.

    Args:
        rng: int64 (2,), seed and offset.
        batch: sequences of the result.
        heads: of the result.
        seq_q: queries of each sequence.
        seq_k: keys of each sequence.
        first_sequence: the result's first ``b``.
        first_head: the result's first ``h``.
        total_heads: query heads of the call; None = first_head + heads.

    Returns:
        uint8 (batch, heads, seq_q, seq_k), contiguous, on rng's device. A weight is kept where byte >= threshold(p).
    """
    if total_heads is None:
        total_heads = first_head + heads
    result: Tensor = torch.ops.fastbert.philox_attention_bytes(
        rng, batch, heads, seq_q, seq_k, first_sequence, first_head, total_heads
    )
    return result


def elementwise_bytes(rng: Tensor, rows: int, columns: int, site: int) -> Tensor:
    """The random byte of every element of a (rows, columns) activation.

    An element reads byte ``column % 16``, little-endian, of the call with counter
    ``(column // 16,  row,  2^31 | site,  offset)``.

    Args:
        rng: int64 (2,), seed and offset.
        site: which dropout of the layer this is, 0 <= site < 2^31.

    Returns:
        uint8 (rows, columns), contiguous, on rng's device.
    """
    result: Tensor = torch.ops.fastbert.philox_elementwise_bytes(rng, rows, columns, site)
    return result


def threshold(p: float) -> int:
    """The byte from which an element survives dropout with probability p, for 0 < p < 1: 1 to 255."""
    return min(255, max(1, int(256 * p + 0.5)))


def survivor_scale(t: int) -> float:
    """What survivors are multiplied by: the inverse of the probability that a byte is at least t."""
    return 256 / (256 - t)


def draw_rng(device: torch.device | str) -> Tensor:
    """A fresh (seed, 0) pair on the device, from torch's generator there (so that ``torch.manual_seed`` rules)."""
    seed = torch.randint(-(2**63), 2**63 - 1, (1,), dtype=torch.int64, device=device)
    return torch.nn.functional.pad(seed, (0, 1))


def with_offset(rng: Tensor, offset: int) -> Tensor:
    """The pair whose offset is increased by ``offset``: an independent stream under the same seed."""
    return torch.stack((rng[0], rng[1] + offset))


def layer_rngs(rng: Tensor, n: int) -> Tensor:
    """(n, 2): one pair a layer, with the offsets of ``rng`` plus 0 to n - 1."""
    offsets = rng[1] + torch.arange(n, device=rng.device)
    return torch.stack((rng[0].expand(n), offsets), dim=1)


def attention_bytes_in_torch(
    rng: Tensor,
    batch: int,
    heads: int,
    seq_q: int,
    seq_k: int,
    first_sequence: int = 0,
    first_head: int = 0,
    total_heads: int | None = None,
) -> Tensor:
    """The definition of :func:`attention_bytes`."""
    total_heads = first_head + heads if total_heads is None else total_heads
    device = rng.device
    tiles_q, tiles_k = -(-seq_q // _TILE_Q), -(-seq_k // _TILE_K)
    within_tile = torch.arange(tiles_k * 32, device=device).view(1, 1, tiles_k, 8, 4)
    tile_row = torch.arange(tiles_q, device=device).view(1, tiles_q, 1, 1, 1)
    sequences = torch.arange(first_sequence, first_sequence + batch, device=device)
    head = sequences[:, None] * total_heads + torch.arange(first_head, first_head + heads, device=device)
    head = head.view(batch * heads, 1, 1, 1, 1)
    key, offset = _key_and_offset(rng)
    words = philox4x32((within_tile, tile_row, head, offset), key)
    # (head, tile_row, tile_column, i % 8, (j % 8) // 2, word, (i % 16) // 8, j % 2)
    random = _as_bytes(words).view(batch * heads, tiles_q, tiles_k, 8, 4, 4, 2, 2)
    random = random.permute(0, 1, 6, 3, 2, 5, 4, 7)
    random = random.reshape(batch, heads, tiles_q * _TILE_Q, tiles_k * _TILE_K)
    return random[:, :, :seq_q, :seq_k].contiguous()


def elementwise_bytes_in_torch(rng: Tensor, rows: int, columns: int, site: int) -> Tensor:
    """The definition of :func:`elementwise_bytes`."""
    device = rng.device
    groups = -(-columns // _BYTES_PER_CALL)
    group = torch.arange(groups, device=device).view(1, groups)
    row = torch.arange(rows, device=device).view(rows, 1)
    place = torch.full((1, 1), _ELEMENTWISE | site, dtype=torch.int64, device=device)
    key, offset = _key_and_offset(rng)
    words = philox4x32((group, row, place, offset), key)
    return _as_bytes(words).view(rows, groups * _BYTES_PER_CALL)[:, :columns].contiguous()


def _key_and_offset(rng: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    seed, offset = rng[0], rng[1]
    return (seed & _WORD, (seed >> 32) & _WORD), offset & _WORD


def _as_bytes(words: tuple[Tensor, ...]) -> Tensor:
    return torch.stack(torch.broadcast_tensors(*words), dim=-1).to(torch.int32).view(torch.uint8)


def _fill_attention_bytes(
    rng: Tensor, batch: int, heads: int, seq_q: int, seq_k: int, first_sequence: int, first_head: int, total_heads: int
) -> Tensor:
    part = (first_sequence, first_head, total_heads)
    if extension.compiled is None or rng.device.type != "cpu":
        return attention_bytes_in_torch(rng, batch, heads, seq_q, seq_k, *part)
    out = torch.empty((batch, heads, seq_q, seq_k), dtype=torch.uint8, device="cpu")
    seed, offset = _host_pair(rng)
    threads = torch.get_num_threads()
    extension.compiled.philox_attention_bytes(out.data_ptr(), batch, heads, seq_q, seq_k, seed, offset, threads, *part)
    return out


def _fill_elementwise_bytes(rng: Tensor, rows: int, columns: int, site: int) -> Tensor:
    if extension.compiled is None or rng.device.type != "cpu":
        return elementwise_bytes_in_torch(rng, rows, columns, site)
    out = torch.empty((rows, columns), dtype=torch.uint8, device="cpu")
    seed, offset = _host_pair(rng)
    extension.compiled.philox_elementwise_bytes(
        out.data_ptr(), rows, columns, seed, offset, site, torch.get_num_threads()
    )
    return out


def _host_pair(rng: Tensor) -> tuple[int, int]:
    seed, offset = rng.tolist()
    return seed % 2**64, offset % 2**32


_library = torch.library.Library("fastbert", "FRAGMENT")
_library.define(
    "philox_attention_bytes(Tensor rng, SymInt batch, SymInt heads, SymInt seq_q, SymInt seq_k, "
    "SymInt first_sequence, SymInt first_head, SymInt total_heads) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "philox_elementwise_bytes(Tensor rng, SymInt rows, SymInt columns, int site) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.impl("philox_attention_bytes", _fill_attention_bytes, "CompositeExplicitAutograd")
_library.impl("philox_elementwise_bytes", _fill_elementwise_bytes, "CompositeExplicitAutograd")


@torch.library.register_fake("fastbert::philox_attention_bytes", lib=_library)
def _attention_bytes_fake(rng: Tensor, batch: int, heads: int, seq_q: int, seq_k: int, *part: int) -> Tensor:
    return rng.new_empty((batch, heads, seq_q, seq_k), dtype=torch.uint8)


@torch.library.register_fake("fastbert::philox_elementwise_bytes", lib=_library)
def _elementwise_bytes_fake(rng: Tensor, rows: int, columns: int, site: int) -> Tensor:
    return rng.new_empty((rows, columns), dtype=torch.uint8)
