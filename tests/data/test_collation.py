"""Examples and the packed batches made of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastbert.data import Example, collate
from fastbert.packing import PackedBatch, packed_positions


def test_fields_of_a_pretraining_batch() -> None:
    batch = collate(
        [
            Example([1, 2, 3], [0, 0, 1], [-100, 7, -100], next_sentence_label=1),  # type: ignore[arg-type]
            Example([4], [0], [9], next_sentence_label=0),  # type: ignore[arg-type]
        ]
    )
    assert batch.input_ids.tolist() == [1, 2, 3, 4]
    assert batch.cu_seqlens.tolist() == [0, 3, 4]
    assert batch.cu_seqlens.dtype == torch.int32
    assert batch.max_seqlen == 3
    assert batch.position_ids.tolist() == [0, 1, 2, 0]
    assert batch.token_type_ids is not None
    assert batch.token_type_ids.tolist() == [0, 0, 1, 0]
    assert batch.labels is not None
    assert batch.labels.tolist() == [-100, 7, -100, 9]
    assert batch.next_sentence_label is not None
    assert batch.next_sentence_label.tolist() == [1, 0]


def test_agrees_with_from_sequences_on_random_lengths() -> None:
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 99, rng.integers(0, 9)).tolist() for _ in range(20)]
    batch = collate([Example(np.array(sequence, dtype=np.int64)) for sequence in sequences])
    expected = PackedBatch.from_sequences(sequences)
    for name in ("input_ids", "cu_seqlens", "position_ids"):
        value, wanted = getattr(batch, name), getattr(expected, name)
        assert value.dtype == wanted.dtype
        assert torch.equal(value, wanted)
    assert batch.max_seqlen == expected.max_seqlen
    assert torch.equal(batch.position_ids, packed_positions(batch.cu_seqlens, batch.total_tokens))
    assert batch.labels is batch.token_type_ids is batch.next_sentence_label is None


def test_sequence_labels_keep_their_kind() -> None:
    classes = collate([Example(np.array([1]), label=2), Example(np.array([1]), label=0)]).labels
    values = collate([Example(np.array([1]), label=2.5), Example(np.array([1]), label=0)]).labels
    assert classes is not None
    assert values is not None
    assert classes.dtype == torch.int64
    assert classes.tolist() == [2, 0]
    assert values.dtype == torch.float32
    assert values.tolist() == [2.5, 0.0]


def test_errors() -> None:
    ids = np.array([1, 2])
    with pytest.raises(ValueError, match="at least one example"):
        collate([])
    with pytest.raises(ValueError, match="1 of 2 examples have token_type_ids"):
        collate([Example(ids, ids), Example(ids)])
    with pytest.raises(ValueError, match="labels per token and a label per sequence"):
        collate([Example(ids, labels=ids, label=1)])
    with pytest.raises(ValueError, match=r"labels has shape \(1,\)"):
        Example(ids, labels=np.array([1]))
    with pytest.raises(ValueError, match=r"input_ids has shape \(1, 2\)"):
        Example(np.array([[1, 2]]))


def test_the_positions_of_answers() -> None:
    first = Example([1, 2, 3], start_position=1, end_position=2)  # type: ignore[arg-type]
    batch = collate([first, Example([4], start_position=0, end_position=0)])  # type: ignore[arg-type]
    assert batch.start_positions is not None
    assert batch.end_positions is not None
    assert batch.start_positions.tolist() == [1, 0]
    assert batch.end_positions.tolist() == [2, 0]
