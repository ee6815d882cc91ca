"""The key-value cache: rows in their places, no logit changed, nothing moved without need or left by a failure."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise

import huggingface_peers as peers
import pytest
import torch
from torch import Tensor

from fastbert.models import GPTForPreTraining, GPTModel, KeyValueCache
from fastbert.packing import PackedBatch

GPT_FAMILIES = pytest.mark.parametrize("family", ["openai-gpt", "gpt2"])
BACKENDS = pytest.mark.parametrize("backend", ["auto", "sdpa", "reference"])


@pytest.fixture
def poisoned() -> Iterator[None]:
    """New buffers hold NaN, which torch fills them with when it is to be deterministic."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def bounds(*lengths: int) -> Tensor:
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)


def packed(*sequences: list[int]) -> PackedBatch:
    return PackedBatch.from_sequences(list(sequences))


def last_rows(model: GPTModel, *sequences: list[int]) -> Tensor:
    """The last token's vector of each sequence, each computed alone and without a cache."""
    return torch.cat([model(packed(sequence)).last_hidden_state[-1:] for sequence in sequences])


@pytest.fixture
def model() -> GPTModel:
    torch.manual_seed(0)
    return GPTModel(peers.our_config("gpt2", initializer_range=0.3)).eval()


def prompts(lengths: list[int]) -> tuple[Tensor, Tensor]:
    torch.manual_seed(9)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long().flip(1)
    return torch.randint(5, peers.VOCAB, mask.shape) * mask, mask


@pytest.mark.parametrize("room", [0, 1, 4])
def test_attention_is_told_where_the_rows_of_each_sequence_are(room: int, poisoned: None) -> None:
    """Numbers for rows: sequence 1 has 10, 11, ..., sequence 2 has 20, ...; every step sees all of its own so far."""
    cache = KeyValueCache(room)
    steps = [[[10, 11], [20], []], [[12], [21, 22], []], [[], [23], [30]], [[13], [24], [31]]]
    seen: list[list[int]] = [[], [], []]
    for step in steps:
        cu_seqlens = bounds(*map(len, step))
        rows = [row for sequence in step for row in sequence]
        assert cache.positions(cu_seqlens, len(rows)).tolist() == [row % 10 for row in rows]
        cu_q, cu_k, max_k = cache.extend(cu_seqlens, 2, len(rows))
        values = torch.tensor(rows).view(-1, 1, 1).float()
        key, value = cache.append(0, values, -values)
        cache.commit()
        for sequence, new in zip(seen, step, strict=True):
            sequence += new
        with_queries = []
        for i in range(cu_q.numel() - 1):
            assert cu_k[i] <= cu_k[i + 1]
            assert cu_k[i + 1] - cu_k[i] <= max_k
            held = key[cu_k[i] : cu_k[i + 1]].flatten().tolist()
            assert held == (-value[cu_k[i] : cu_k[i + 1]]).flatten().tolist() or cu_q[i] == cu_q[i + 1]
            if cu_q[i] < cu_q[i + 1]:
                with_queries.append((rows[cu_q[i] : cu_q[i + 1]], held))
        assert with_queries == [(new, all_of) for new, all_of in zip(step, seen, strict=True) if new]
        assert cu_q[-1] == len(rows)
        assert cache.lengths is not None
        assert cache.lengths.tolist() == [len(sequence) for sequence in seen]
    with pytest.raises(ValueError, match="past_key_values holds 3 sequences, the input has 1"):
        cache.extend(bounds(1), 1, 1)


def test_nothing_moves_while_there_is_room_and_seldom_without() -> None:
    def addresses(room: int, steps: int) -> list[int]:
        cache, found = KeyValueCache(room), []
        for step in range(steps + 1):
            n = 1 if step else 5
            cache.extend(bounds(n, n), n, 2 * n)
            key, _ = cache.append(0, torch.zeros(2 * n, 3, 4), torch.zeros(2 * n, 3, 4))
            cache.commit()
            if step:
                found.append(key.untyped_storage().data_ptr())
        return found

    assert len(set(addresses(100, 100))) == 1
    assert sum(a != b for a, b in pairwise(addresses(0, 100))) <= 5  # 5 rows, then room for 5, 10, 20, 40, 80 more


@BACKENDS
@GPT_FAMILIES
def test_the_cache_changes_no_logit(family: str, backend: str) -> None:
    torch.manual_seed(0)
    model = GPTForPreTraining(peers.our_config(family)).eval()
    model.set_attention_backend(backend)
    ids, mask = prompts([6, 3, 1])
    whole = model(ids, attention_mask=mask).logits
    first = model(ids[:, :4], attention_mask=mask[:, :4], use_cache=True)
    second = model(ids[:, 4:5], attention_mask=mask[:, :5], past_key_values=first.past_key_values)
    third = model(ids[:, 5:], attention_mask=mask[:, 5:], past_key_values=second.past_key_values, use_cache=True)
    assert third.past_key_values is first.past_key_values
    assert third.past_key_values.lengths.tolist() == [6, 3, 1]
    joined = torch.cat((first.logits, second.logits, third.logits), dim=1)
    torch.testing.assert_close(joined[mask.bool()], whole[mask.bool()], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("room", [0, 2, 9])
@torch.no_grad()
def test_sequences_leave_are_copied_and_take_each_others_place(
    model: GPTModel, room: int, backend: str, poisoned: None
) -> None:
    expected = last_rows(model, [7, 8, 9, 30], [13, 14, 15, 16], [7, 8, 9, 31], [13, 14, 15, 17])
    model.set_attention_backend(backend)
    cache = KeyValueCache(room)
    model(packed([7, 8], [10, 11, 12], [13, 14]), past_key_values=cache)
    cache.keep(torch.tensor([0, 2]))
    assert cache.lengths is not None
    assert cache.lengths.tolist() == [2, 2]
    model(packed([9], [15]), past_key_values=cache)
    cache.keep(torch.tensor([0, 1]))  # all of them
    cache.select(torch.tensor([0, 1, 0, 1]))
    last = model(packed([30], [16], [31], [17]), past_key_values=cache).last_hidden_state
    torch.testing.assert_close(last, expected, atol=1e-5, rtol=1e-5)

    # Sequence 1 now continues what 3 was, and 3 what 1 was, from their fourth tokens on; sequence 2 continues 0.
    cache.reorder(torch.tensor([0, 3, 0, 1]), since=torch.tensor([3, 3, 3, 3]), count=1)
    last = model(packed([40], [41], [42], [43]), past_key_values=cache).last_hidden_state
    cache.keep(torch.tensor([3]))
    final = model(packed([44]), past_key_values=cache).last_hidden_state
    model.set_attention_backend(None)
    sequences = ([7, 8, 9, 30, 40], [13, 14, 15, 17, 41], [7, 8, 9, 30, 42], [13, 14, 15, 16, 43])
    torch.testing.assert_close(last, last_rows(model, *sequences), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(final, last_rows(model, [*sequences[3], 44]), atol=1e-5, rtol=1e-5)


def test_a_packed_batch_may_continue_a_cache(model: GPTModel) -> None:
    whole = model(packed([7, 8, 9], [10, 11])).last_hidden_state
    cache = KeyValueCache()
    model(packed([7, 8], [10]), past_key_values=cache)
    last = model(packed([9], [11]), past_key_values=cache).last_hidden_state
    torch.testing.assert_close(last, whole[[2, 4]], atol=1e-5, rtol=1e-5)


def test_a_copy_goes_its_own_way(model: GPTModel) -> None:
    """Two continuations of one prompt that was computed once."""
    with torch.no_grad():
        cache = KeyValueCache(room=3)
        model(packed([7, 8]), past_key_values=cache)
        other = copy.deepcopy(cache)
        ends = [model(packed([t]), past_key_values=c).last_hidden_state for c, t in ((cache, 9), (other, 10))]
    torch.testing.assert_close(torch.cat(ends), last_rows(model, [7, 8, 9], [7, 8, 10]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("room", [0, 5])
def test_gradients_go_through_the_cache(model: GPTModel, room: int) -> None:
    batches = [packed([7, 8], [10]), packed([9], [11]), packed([12], [13])]
    whole = model(packed([7, 8, 9, 12], [10, 11, 13])).last_hidden_state
    weight = torch.randn(whole.shape, generator=torch.Generator().manual_seed(0))
    (whole * weight).sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    cache = KeyValueCache(room)
    parts = [model(batch, past_key_values=cache).last_hidden_state for batch in batches]
    with torch.no_grad():  # goes on without a gradient, and disturbs none
        model(packed([14], [15]), past_key_values=cache)
    loss = sum((part * weight[rows]).sum() for part, rows in zip(parts, ([0, 1, 4], [2, 5], [3, 6]), strict=True))
    assert isinstance(loss, Tensor)
    loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-4, rtol=1e-4, msg=name)


def test_a_cache_made_in_inference_mode_may_be_continued_outside(model: GPTModel) -> None:
    cache = KeyValueCache(room=4)
    with torch.inference_mode():
        model(packed([7, 8]), past_key_values=cache)
    with torch.no_grad():
        ends = [model(packed([token]), past_key_values=cache).last_hidden_state for token in (9, 10)]
    torch.testing.assert_close(torch.cat(ends), last_rows(model, [7, 8, 9], [7, 8, 9, 10]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("failing_layer", range(peers.LAYERS))
@pytest.mark.parametrize("first", [True, False])
def test_a_forward_that_fails_leaves_the_cache_as_it_was(model: GPTModel, first: bool, failing_layer: int) -> None:
    """A layer raises, before or after others have their new rows; the same call then goes through."""
    whole = model(packed([7, 8, 9], [10, 11])).last_hidden_state
    steps = [packed([7, 8], [10]), packed([9], [11])]
    cache = KeyValueCache()

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    answers = []
    for i, step in enumerate(steps):
        if first == (i == 0):
            handle = model.get_submodule(f"transformer.blocks.{failing_layer}.mlp").register_forward_pre_hook(fail)
            before = None if cache.lengths is None else cache.lengths.tolist()
            # The first attempt brings other tokens, of which nothing may stay.
            with pytest.raises(RuntimeError, match="out of memory"):
                model(packed([30, 31, 32], [33, 34]), past_key_values=cache)
            handle.remove()
            assert (None if cache.lengths is None else cache.lengths.tolist()) == before
        answers.append(model(step, past_key_values=cache).last_hidden_state)
    assert cache.lengths is not None
    assert cache.lengths.tolist() == [3, 2]
    torch.testing.assert_close(answers[0], whole[[0, 1, 3]], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(answers[1], whole[[2, 4]], atol=1e-5, rtol=1e-5)
