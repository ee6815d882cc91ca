"""The door of every public forward: padded keywords or a PackedBatch come in, packed rows go on.

Nothing behind this file knows padding. A padded call is unpadded here once, and :meth:`ModelInputs.restore` pads again
what the caller gets back.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastbert.models.cache import KeyValueCache
from fastbert.models.losses import check_count
from fastbert.models.outputs import ModelOutput
from fastbert.packing import IGNORE_INDEX, PackedBatch, Padding, repad, unpad


@dataclass(frozen=True)
class ModelInputs:
    """One forward's input, packed.

    Attributes:
        batch: the tokens and the targets.
        padding: how to pad the results, or None where the call came packed and is answered packed.
        embeds: (total, hidden) vectors in place of those of ``batch.input_ids``, or None.
    """

    batch: PackedBatch
    padding: Padding | None = None
    embeds: Tensor | None = None

    def restore(self, x: Tensor) -> Tensor:
        """(total, ...) -> (batch, seq, ...) with zeros in the padding, or unchanged for a packed call."""
        return x if self.padding is None else repad(x, self.padding)

    def answer(self, return_dict: bool, hidden_states: tuple[Tensor, ...] | None, **fields: Any) -> Any:
        """The output of a forward; ``hidden_states`` are restored here, ``fields`` come as the caller gets them."""
        states = None if hidden_states is None else tuple(self.restore(state) for state in hidden_states)
        output = ModelOutput(**fields, hidden_states=states)
        return output if return_dict else output.to_tuple()


def pack_inputs(
    input_ids: Tensor | PackedBatch | None,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    position_ids: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
    *,
    token_labels: Tensor | None = None,
    labels: Tensor | None = None,
    next_sentence_label: Tensor | None = None,
    start_positions: Tensor | None = None,
    end_positions: Tensor | None = None,
    grouped: bool = False,
    cache: KeyValueCache | None = None,
    output_attentions: bool | None = None,
) -> ModelInputs:
    """Pack what a forward was given.

    Args:
        input_ids: (batch, seq) token ids, or a PackedBatch and nothing else besides.
        attention_mask: (batch, seq), nonzero where there is a token, on whichever side the padding is; None for
            tokens everywhere. With a cache it may also cover the cached columns before them.
        token_type_ids: (batch, seq).
        position_ids: (batch, seq), or (seq,) or (1, seq) for all rows alike; they default to the mask's running count.
        inputs_embeds: (batch, seq, hidden), instead of ``input_ids``.
        token_labels: (batch, seq) targets of the tokens; those in the padding are dropped.
        labels, next_sentence_label: targets of the sequences, passed on as they are.
        start_positions, end_positions: (batch,) columns, which become positions inside the sequence.
        grouped: whether the inputs are (batch, choices, seq), the sequences of one row belonging together.
        cache: what was computed before; positions count on from it.
        output_attentions: refused, since no backend ever holds the attention weights.

    Raises:
        TypeError: an argument that is no tensor.
        ValueError: a combination or a shape that makes no sense; how many ``labels`` and ``next_sentence_label``
            there must be is for the losses to say.
    """
    if output_attentions:
        raise ValueError(
            "output_attentions: the attention weights are never held in memory, so they cannot be returned; "
            "leave it unset, or compute them from hidden_states"
        )
    padded = {
        "attention_mask": attention_mask,
        "token_type_ids": token_type_ids,
        "position_ids": position_ids,
        "inputs_embeds": inputs_embeds,
        "labels": token_labels if token_labels is not None else labels,
        "next_sentence_label": next_sentence_label,
        "start_positions": start_positions,
        "end_positions": end_positions,
    }
    _check_types({"input_ids": input_ids, **padded})
    if isinstance(input_ids, PackedBatch):
        if given := [name for name, value in padded.items() if value is not None]:
            raise ValueError(f"a PackedBatch carries everything itself; {', '.join(given)} must be left out")
        return ModelInputs(input_ids if cache is None else _continued(input_ids, cache))
    tokens = input_ids if input_ids is not None else inputs_embeds
    if tokens is None or (input_ids is not None and inputs_embeds is not None):
        raise ValueError("give either input_ids or inputs_embeds")
    dims = ("batch", "choices", "seq") if grouped else ("batch", "seq")
    lead = len(dims)
    if tokens.dim() != lead + (inputs_embeds is not None):
        wanted = ", ".join(dims if inputs_embeds is None else (*dims, "hidden"))
        name = "input_ids" if inputs_embeds is None else "inputs_embeds"
        raise ValueError(f"{name} must be ({wanted}), got shape {tuple(tokens.shape)}")
    shape = tokens.shape[:lead]
    if attention_mask is not None and cache is not None:
        attention_mask = attention_mask[..., -shape[-1] :]
    same = {"attention_mask": attention_mask, "token_type_ids": token_type_ids, "labels": token_labels}
    _check_shapes(shape, same, position_ids)
    rows, seq = math.prod(shape[:-1]), shape[-1]  # numel() would fix the sizes of a traced graph
    mask = None if attention_mask is None else attention_mask.reshape(rows, seq)
    padding = Padding.none(rows, seq, tokens.device) if mask is None else Padding.from_mask(mask)
    total = padding.indices.numel()

    def pack(x: Tensor | None) -> Tensor | None:
        return (
            None if x is None else unpad(x.expand(*shape, *x.shape[lead:]).reshape(rows, seq, *x.shape[lead:]), padding)
        )

    positions = pack(position_ids)
    if positions is None:
        held = cache or KeyValueCache()
        positions = held.positions(padding.cu_seqlens, total)
    ids = pack(input_ids)
    batch = PackedBatch(
        input_ids=torch.zeros_like(positions) if ids is None else ids,
        cu_seqlens=padding.cu_seqlens,
        max_seqlen=seq,
        position_ids=positions,
        token_type_ids=pack(token_type_ids),
        labels=labels if token_labels is None else pack(token_labels),
        next_sentence_label=next_sentence_label,
        start_positions=_inside("start_positions", start_positions, mask, rows, seq),
        end_positions=_inside("end_positions", end_positions, mask, rows, seq),
        num_choices=shape[1] if grouped else 1,
    )
    return ModelInputs(batch, padding, pack(inputs_embeds))


def _continued(batch: PackedBatch, cache: KeyValueCache) -> PackedBatch:
    return dataclasses.replace(batch, position_ids=cache.positions(batch.cu_seqlens, batch.total_tokens))


def _check_types(arguments: Mapping[str, object]) -> None:
    for name, value in arguments.items():
        if value is not None and not isinstance(value, (Tensor, PackedBatch)):
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")


def _check_shapes(shape: torch.Size, same: Mapping[str, Tensor | None], position_ids: Tensor | None) -> None:
    """ValueError unless all of ``same`` have the tokens' shape and the positions have it or repeat to it."""
    wanted = f"must have the shape of the tokens, {tuple(shape)}"
    for name, value in same.items():
        if value is not None and value.shape != shape:
            raise ValueError(f"{name} {wanted}, got {tuple(value.shape)}")
    if position_ids is not None and not _repeats_to(position_ids.shape, shape):
        raise ValueError(
            f"position_ids {wanted}, or be ({shape[-1]},) for all rows alike, got {tuple(position_ids.shape)}"
        )


def _repeats_to(shape: torch.Size, wanted: torch.Size) -> bool:
    """Whether a shape ends in the columns of ``wanted`` and has, before them, its rows or one for all."""
    lead = shape[:-1]
    return (
        0 < len(shape) <= len(wanted)
        and shape[-1] == wanted[-1]
        and all(size in (1, rows) for size, rows in zip(reversed(lead), reversed(wanted[:-1]), strict=False))
    )


def _inside(name: str, columns: Tensor | None, mask: Tensor | None, rows: int, seq: int) -> Tensor | None:
    """(batch,) columns of the padded layout -> positions inside the sequence, -100 for one that holds no token."""
    if columns is None:
        return None
    columns = columns.flatten()
    check_count(name, columns, rows, "sequence")
    if mask is None:
        return columns
    keep = mask != 0
    column = columns.clamp(0, seq - 1)[:, None]
    position = keep.long().cumsum(1).gather(1, column)[:, 0] - 1
    valid = keep.gather(1, column)[:, 0] & (columns >= 0) & (columns < seq)
    return torch.where(valid, position, torch.full_like(position, IGNORE_INDEX))
