"""What transformers' mask functions let a query see, told to our kernels in a few numbers instead of a matrix.

transformers describes a mask by a function of (batch, head, query, key) indices, composed of a few known ones, and asks
the attention implementation to make of it what it needs. :func:`make_mask` recognises the compositions that our kernels
have a form for: full, causal and windowed attention, key padding on either side, packed sequences, and the offsets of a
cache. It answers with an :class:`AttentionMask`, in which no value of a mask on a device was read. Whatever it does not
recognise (prefixes, blocks, chunks, a user's own functions) becomes the boolean (batch, 1, seq_q, seq_k) mask that
transformers makes for torch: slower, never wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType
from typing import Any, NamedTuple

import torch
import transformers.masking_utils
from torch import Tensor

# Typed as Any: the module's signatures differ between versions.
_theirs: Any = transformers.masking_utils

MaskFunction = Callable[..., Any]


class Packing(NamedTuple):
    """Sequences laid end to end in the flattened (batch * seq) rows.

    Attributes:
        cu_seqlens: int32 (n + 1,).
        max_seqlen: the longest one.
    """

    cu_seqlens: Tensor
    max_seqlen: int


class AttentionMask(NamedTuple):
    """Which keys a query sees. The last query is aligned with key ``seq_k - 1``.

    A tuple of tensors and numbers, so that whatever moves a model's inputs about can move this too.

    Attributes:
        left: how far back a query sees, None = all the way.
        right: how far ahead, 0 = causal, None = all the way.
        seq_k: keys that there are to see.
        key_padding_mask: bool (batch, seq_k), True = a token; None = all are tokens.
        packing: the sequences, which do not see each other; None = each row of the batch is one.
        unused: places behind those keys, in a static cache, that hold nothing yet.
    """

    left: int | None
    right: int | None
    seq_k: int
    key_padding_mask: Tensor | None = None
    packing: Packing | None = None
    unused: int = 0

    def contiguous(self) -> AttentionMask:
        """Itself. ``generate`` with a static cache asks every mask for it in some releases of transformers (5.20)."""
        return self

    @property
    def ndim(self) -> int:
        """Of the mask this stands for: transformers leaves a mask of four dimensions that it is given alone."""
        return 4


class _Pattern(NamedTuple):
    left: int | None
    right: int | None
    sequence_ids: Tensor | None = None


def make_mask(
    batch_size: int,
    *,
    kv_length: int,
    q_length: int | None = None,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: MaskFunction = _theirs.causal_mask_function,
    attention_mask: Tensor | AttentionMask | None = None,
    cache_position: Tensor | None = None,
    **others: Any,
) -> AttentionMask | Tensor:
    """Transformers' mask interface: called once a forward for each kind of layer.

    Args:
        batch_size: rows.
        kv_length: keys that the attention will be given.
        q_length: queries.
        q_offset: position of the first query; a tensor with a static cache.
        kv_offset: position of the first key.
        mask_function: which (batch, head, query, key) positions may be seen.
        attention_mask: bool (batch, seen tokens), True = a token; or what this function answered before, which
            ``generate`` hands back.
        cache_position: positions of the queries, from versions that give them in place of q_length and q_offset.
        others: for transformers' own function.

    Returns:
        An AttentionMask; a bool (batch, 1, 1, kv_length) mask where the position of one query is known to the device
        alone; or transformers' bool (batch, 1, q_length, kv_length) mask where the pattern has no other form.
    """
    if isinstance(attention_mask, AttentionMask):
        return attention_mask
    positions: dict[str, Any] = {"q_length": q_length, "q_offset": q_offset}
    if cache_position is not None:
        positions = {"cache_position": cache_position}
        q_length, q_offset = cache_position.shape[0], cache_position[0]
        if cache_position.device.type == "cpu" and not torch.compiler.is_compiling():
            q_offset = int(q_offset)
    assert q_length is not None
    pattern = _recognise(mask_function)
    mask = None
    if pattern is not None:
        padding = _key_padding(attention_mask, kv_offset, kv_length)
        mask = _compact(pattern, batch_size, q_length, kv_length, q_offset, kv_offset, padding)
    if mask is not None:
        return mask
    skips = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    full: Tensor = _theirs.sdpa_mask(
        batch_size=batch_size,
        kv_length=kv_length,
        kv_offset=kv_offset,
        mask_function=mask_function,
        attention_mask=attention_mask,
        **(positions | others | skips),
    )
    return full


def _compact(
    pattern: _Pattern,
    batch: int,
    seq_q: int,
    seq_k: int,
    q_offset: int | Tensor,
    kv_offset: int,
    padding: Tensor | None,
) -> AttentionMask | Tensor | None:
    """The mask of a pattern, or None where it has no short form at these offsets."""
    if pattern.sequence_ids is not None:
        begins_together = isinstance(q_offset, int) and q_offset == kv_offset and seq_q == seq_k
        return _packed(pattern, pattern.sequence_ids, seq_k) if begins_together and padding is None else None
    left, right = pattern.left, pattern.right
    if left is None and right is None:
        return AttentionMask(None, None, seq_k, padding)  # whichever way it is aligned
    if isinstance(q_offset, Tensor):
        if seq_q == 1:
            visible = _keys_of_one_query(left, right, seq_k, q_offset - kv_offset)
            visible = visible if padding is None else visible & padding
            return visible.expand(batch, seq_k)[:, None, None]
        if torch.compiler.is_compiling():
            return None
        q_offset = int(q_offset)
    end = q_offset + seq_q - kv_offset  # one past the key aligned with the last query
    if end > seq_k or (end < seq_k and right != 0):
        return None
    return AttentionMask(left, right, end, None if padding is None else padding[:, :end], unused=seq_k - end)


def _keys_of_one_query(left: int | None, right: int | None, seq_k: int, position: Tensor) -> Tensor:
    """Bool (1, seq_k): what the query at a position sees."""
    keys = torch.arange(seq_k, device=position.device)
    visible = torch.ones_like(keys, dtype=torch.bool)
    if left is not None:
        visible = visible & (keys >= position - left)
    if right is not None:
        visible = visible & (keys <= position + right)
    return visible[None]


def _key_padding(attention_mask: Tensor | None, kv_offset: int, kv_length: int) -> Tensor | None:
    """(batch, kv_length) of the (batch, seen tokens) mask; None where all are seen to be tokens at no cost."""
    if attention_mask is None:
        return None
    mask = attention_mask.bool()
    missing = kv_offset + kv_length - mask.shape[1]
    if missing > 0:  # places of a static cache that nobody has filled
        mask = torch.nn.functional.pad(mask, (0, missing), value=False)
    mask = mask[:, kv_offset : kv_offset + kv_length]
    if mask.device.type == "cpu" and not torch.compiler.is_compiling() and bool(mask.all()):
        return None
    return mask


def _packed(pattern: _Pattern, sequence_ids: Tensor, seq: int) -> AttentionMask | None:
    """Of (batch, seq) ids that grow where a sequence begins. How many there are has to be read from the device."""
    grows = sequence_ids.diff(dim=1)
    if bool((grows < 0).any()):
        return None  # a sequence may have come back after another
    begins = torch.ones_like(sequence_ids, dtype=torch.bool)
    begins[:, 1:] = grows > 0
    bounds = torch.cat((begins.flatten().nonzero().flatten(), grows.new_tensor([begins.numel()], dtype=torch.int64)))
    longest = int(bounds.diff().max()) if bounds.numel() > 1 else 0
    return AttentionMask(pattern.left, pattern.right, seq, packing=Packing(bounds.int(), longest))


# Their mask functions are closures, so what tells them apart is their code. A function that a version does not have
# makes no closures either.
_SAMPLES: dict[str, tuple[Any, ...]] = {
    "and_masks": (_theirs.causal_mask_function,),
    "sliding_window_overlay": (1,),
    "sliding_window_bidirectional_overlay": (1,),
    "packed_sequence_mask_function": (torch.zeros(1, 1),),
    "remap_positions_for_packed_sequence": (_theirs.causal_mask_function, torch.zeros(1, 1)),
}
_KINDS: dict[CodeType, str] = {
    getattr(_theirs, name)(*arguments).__code__: name for name, arguments in _SAMPLES.items() if hasattr(_theirs, name)
}
_BIDIRECTIONAL: MaskFunction | None = getattr(_theirs, "bidirectional_mask_function", None)


def _recognise(function: MaskFunction) -> _Pattern | None:
    """The pattern of a mask function, or None. A compiler cannot look into closures, so there only the plain ones."""
    if function is _theirs.causal_mask_function:
        return _Pattern(None, 0)
    if function is _BIDIRECTIONAL:
        return _Pattern(None, None)
    if torch.compiler.is_compiling():
        return None
    parts = _closure(function, "and_masks", "mask_functions")
    if parts is None or len(parts) != 2:
        return None
    first, second = parts
    sequence_ids = _closure(second, "packed_sequence_mask_function", "packed_sequence_mask")
    if sequence_ids is not None:
        # The positions that are remapped count up by one inside a sequence, as rows do.
        remapped = _closure(first, "remap_positions_for_packed_sequence", "mask_function")
        inner = _recognise(first if remapped is None else remapped)
        return None if inner is None or inner.sequence_ids is not None else inner._replace(sequence_ids=sequence_ids)
    window = _closure(first, "sliding_window_overlay", "sliding_window")
    if window is not None and second is _theirs.causal_mask_function:
        return _Pattern(window - 1, 0)  # counted with the query's own place
    window = _closure(first, "sliding_window_bidirectional_overlay", "sliding_window")
    if window is not None and second is _BIDIRECTIONAL:
        return _Pattern(window, window)
    return None


def _closure(function: MaskFunction, kind: str, variable: str) -> Any:
    """What a mask function of a kind holds under a name; None if it is of another kind."""
    code = getattr(function, "__code__", None)
    cells = getattr(function, "__closure__", None)
    if code is None or cells is None or _KINDS.get(code) != kind or variable not in code.co_freevars:
        return None
    return cells[code.co_freevars.index(variable)].cell_contents
