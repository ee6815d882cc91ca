"""Packing: tiny literal cases of each function."""

from __future__ import annotations

import pytest
import torch

from fastbert.packing import (
    PackedBatch,
    Padding,
    cumulative_lengths,
    packed_positions,
    repad,
    select_first,
    select_last,
    sequence_index,
    unpad,
)

# Padding on the right, on the left, everywhere, in the middle.
MASK = torch.tensor([[1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 1]])
CU_SEQLENS = torch.tensor([0, 2, 3, 3, 5], dtype=torch.int32)


def test_cumulative_lengths():
    cu_seqlens = cumulative_lengths(torch.tensor([2, 1, 0, 2]))
    assert cu_seqlens.dtype == torch.int32
    assert cu_seqlens.tolist() == [0, 2, 3, 3, 5]
    assert cumulative_lengths(torch.tensor([], dtype=torch.int64)).tolist() == [0]


def test_padding_from_mask():
    padding = Padding.from_mask(MASK)
    assert padding.indices.tolist() == [0, 1, 5, 9, 11]
    assert padding.cu_seqlens.tolist() == CU_SEQLENS.tolist()
    assert (padding.batch, padding.seq) == (4, 3)


def test_padding_none_equals_a_mask_of_ones():
    none, ones = Padding.none(2, 3, torch.device("cpu")), Padding.from_mask(torch.ones(2, 3))
    assert none.indices.tolist() == ones.indices.tolist()
    assert none.cu_seqlens.tolist() == ones.cu_seqlens.tolist()
    assert none.cu_seqlens.dtype == torch.int32


def test_mask_of_the_wrong_shape():
    with pytest.raises(ValueError, match=r"attention_mask must be \(batch, seq\), got shape \(2, 1, 3\)"):
        Padding.from_mask(torch.ones(2, 1, 3))


def test_unpad_keeps_tokens_and_repad_puts_zeros():
    padding = Padding.from_mask(MASK)
    x = torch.arange(1, 13).view(4, 3)
    packed = unpad(x, padding)
    assert packed.tolist() == [1, 2, 6, 10, 12]
    assert repad(packed, padding).tolist() == [[1, 2, 0], [0, 0, 6], [0, 0, 0], [10, 0, 12]]


def test_unpad_and_repad_carry_gradients_of_tokens_only():
    padding = Padding.from_mask(MASK)
    x = torch.randn(4, 3, 2, requires_grad=True)
    repad(unpad(x, padding), padding).sum().backward()
    assert torch.equal(x.grad[..., 0], MASK.float())


def test_where_rows_belong():
    assert sequence_index(CU_SEQLENS, 6).tolist() == [0, 0, 1, 3, 3, 4]
    assert packed_positions(CU_SEQLENS, 5).tolist() == [0, 1, 0, 0, 1]


def test_first_and_last_rows_and_zeros_for_empty_sequences():
    x = torch.arange(1.0, 6.0).unsqueeze(1)
    assert select_first(x, CU_SEQLENS).flatten().tolist() == [1, 3, 0, 4]
    assert select_last(x, CU_SEQLENS).flatten().tolist() == [2, 3, 0, 5]
    empty = torch.zeros(3, dtype=torch.int32)
    assert select_last(torch.zeros(0, 4), empty).shape == (2, 4)


def test_from_sequences():
    batch = PackedBatch.from_sequences([[7, 8], [], [9]], token_labels=[[-100, 1], [], [2]])
    assert batch.input_ids.tolist() == [7, 8, 9]
    assert batch.position_ids.tolist() == [0, 1, 0]
    assert batch.labels.tolist() == [-100, 1, 2]
    assert batch.cu_seqlens.tolist() == [0, 2, 2, 3]
    assert (batch.max_seqlen, batch.num_sequences, batch.total_tokens) == (2, 3, 3)


def test_from_sequences_rejects_what_does_not_fit():
    with pytest.raises(ValueError, match="token_type_ids must have the lengths"):
        PackedBatch.from_sequences([[1, 2]], token_type_ids=[[0]])
    with pytest.raises(ValueError, match="token_labels or labels, not both"):
        PackedBatch.from_sequences([[1]], token_labels=[[1]], labels=torch.tensor([0]))


def test_to_moves_every_tensor_and_keeps_the_rest():
    batch = PackedBatch.from_sequences([[1, 2, 3]], labels=torch.tensor([1]), num_choices=1)
    moved = batch.to("meta")
    assert {t.device.type for t in (moved.input_ids, moved.cu_seqlens, moved.position_ids, moved.labels)} == {"meta"}
    assert moved.max_seqlen == 3
