"""Greedy generation gives transformers' ids, with and without the cache, for prompts of any lengths."""

from __future__ import annotations

from pathlib import Path

import huggingface_peers as peers
import pytest
import torch
from torch import Tensor

from fastbert.models import GPTForPreTraining, GPTModel, KeyValueCache
from fastbert.packing import PackedBatch

NAMES = {"openai-gpt": "OpenAIGPTLMHeadModel", "gpt2": "GPT2LMHeadModel"}
GPT_FAMILIES = pytest.mark.parametrize("family", list(NAMES))


def prompts(lengths: list[int], side: str) -> tuple[Tensor, Tensor]:
    torch.manual_seed(9)
    width = max(lengths)
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    mask = mask.flip(1) if side == "left" else mask
    return torch.randint(5, peers.VOCAB, mask.shape) * mask, mask


@GPT_FAMILIES
def test_ids_equal_theirs(family: str, tmp_path: Path) -> None:
    mine, reference = peers.pair(family, GPTForPreTraining, NAMES[family], tmp_path)
    ids, _ = prompts([6, 6, 6], "left")
    expected = reference.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    actual = mine.generate(ids, max_new_tokens=12)
    assert torch.equal(actual, expected)
    assert len(actual[:, 6:].unique()) > 2  # not one token throughout


@GPT_FAMILIES
@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_of_different_lengths_do_not_disturb_each_other(family: str, side: str) -> None:
    torch.manual_seed(0)
    model = GPTForPreTraining(peers.our_config(family, initializer_range=0.3))
    ids, mask = prompts([7, 2, 4], side)
    together = model.generate(ids, mask, max_new_tokens=8)
    assert torch.equal(together[:, :7], ids)
    for row in range(3):
        alone = ids[row : row + 1][mask[row : row + 1].bool()][None]
        assert torch.equal(model.generate(alone, max_new_tokens=8)[0, -8:], together[row, -8:])


@GPT_FAMILIES
def test_the_cache_changes_no_logit(family: str) -> None:
    torch.manual_seed(0)
    model = GPTForPreTraining(peers.our_config(family)).eval()
    ids, mask = prompts([6, 3, 1], "left")
    whole = model(ids, attention_mask=mask).logits
    first = model(ids[:, :4], attention_mask=mask[:, :4], use_cache=True)
    second = model(ids[:, 4:5], attention_mask=mask[:, :5], past_key_values=first.past_key_values)
    third = model(ids[:, 5:], attention_mask=mask[:, 5:], past_key_values=second.past_key_values, use_cache=True)
    assert third.past_key_values is first.past_key_values
    assert third.past_key_values.lengths.tolist() == [6, 3, 1]
    joined = torch.cat((first.logits, second.logits, third.logits), dim=1)
    torch.testing.assert_close(joined[mask.bool()], whole[mask.bool()], atol=1e-5, rtol=1e-5)


def test_the_cache_lays_rows_of_a_sequence_together() -> None:
    cache = KeyValueCache()
    steps = [([0, 2, 3], [10, 11, 20]), ([0, 1, 3], [12, 21, 22]), ([0, 0, 1], [23])]
    joined: list[list[int]] = []
    for cu_seqlens, rows in steps:
        bounds = torch.tensor(cu_seqlens, dtype=torch.int32)
        expected = cache.positions(bounds, len(rows))
        cache.extend(bounds, 2, len(rows))
        values = torch.tensor(rows)[:, None, None].float()
        key, value = cache.append(0, values, -values)
        assert torch.equal(key, -value)
        cache.commit()
        joined.append(key.flatten().int().tolist())
        assert [int(row) % 10 for row in rows] == expected.tolist()
    assert joined == [[10, 11, 20], [10, 11, 12, 20, 21, 22], [10, 11, 12, 20, 21, 22, 23]]
    assert cache.cu_seqlens is not None
    assert cache.cu_seqlens.tolist() == [0, 3, 7]
    with pytest.raises(ValueError, match="past_key_values holds 2 sequences, the input has 1"):
        cache.extend(torch.tensor([0, 1], dtype=torch.int32), 1, 1)


def test_a_packed_batch_may_continue_a_cache() -> None:
    torch.manual_seed(0)
    model = GPTModel(peers.our_config("gpt2")).eval()
    whole = model(PackedBatch.from_sequences([[7, 8, 9], [10, 11]])).last_hidden_state
    cache = KeyValueCache()
    model(PackedBatch.from_sequences([[7, 8], [10]]), past_key_values=cache)
    last = model(PackedBatch.from_sequences([[9], [11]]), past_key_values=cache).last_hidden_state
    torch.testing.assert_close(last, whole[[2, 4]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("failing_layer", range(peers.LAYERS))
@pytest.mark.parametrize("first", [True, False])
def test_a_forward_that_fails_leaves_the_cache_as_it_was(first: bool, failing_layer: int) -> None:
    """A layer raises, before or after others have their new rows; the same call then goes through."""
    torch.manual_seed(0)
    model = GPTModel(peers.our_config("gpt2")).eval()
    whole = model(PackedBatch.from_sequences([[7, 8, 9], [10, 11]])).last_hidden_state
    steps = [PackedBatch.from_sequences([[7, 8], [10]]), PackedBatch.from_sequences([[9], [11]])]
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
                model(PackedBatch.from_sequences([[30, 31, 32], [33, 34]]), past_key_values=cache)
            handle.remove()
            assert (None if cache.lengths is None else cache.lengths.tolist()) == before
        answers.append(model(step, past_key_values=cache).last_hidden_state)
    assert cache.lengths is not None
    assert cache.lengths.tolist() == [3, 2]
    torch.testing.assert_close(answers[0], whole[[0, 1, 3]], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(answers[1], whole[[2, 4]], atol=1e-5, rtol=1e-5)


def test_prompts_that_are_done_are_filled_up() -> None:
    torch.manual_seed(0)
    model = GPTForPreTraining(peers.our_config("gpt2", initializer_range=0.3))
    ids, mask = prompts([5, 3], "left")
    free = model.generate(ids, mask, max_new_tokens=10)[:, 5:]
    end = int(free[0, 2])  # what the first prompt says third
    ended = model.generate(ids, mask, max_new_tokens=10, eos_token_id=end, pad_token_id=0)[:, 5:]
    for row in range(2):
        said = free[row].tolist()
        stop = said.index(end) + 1 if end in said else 10
        assert ended[row, :stop].tolist() == said[:stop]
        assert (ended[row, stop:] == 0).all()
    alone = model.generate(ids[:1], mask[:1], max_new_tokens=10, eos_token_id=end)
    assert alone.shape == (1, 5 + free[0].tolist().index(end) + 1)  # it stops when all are done


def test_generation_leaves_the_mode_and_refuses_what_does_not_fit() -> None:
    model = GPTForPreTraining(peers.our_config("gpt2", hidden_dropout_prob=0.5)).train()
    ids = torch.tensor([[7, 8, 9]])
    assert torch.equal(model.generate(ids, max_new_tokens=3), model.generate(ids, max_new_tokens=3))
    assert model.training
    with pytest.raises(ValueError, match=r"a prompt of 3 tokens and max_new_tokens 22 exceed the model's 24 positions"):
        model.generate(ids, max_new_tokens=22)
    assert model.generate(ids, max_new_tokens=21).shape == (1, 24)
    with pytest.raises(ValueError, match="every prompt must have at least one token"):
        model.generate(torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 3), max_new_tokens=1)
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got 0"):
        model.generate(ids, max_new_tokens=0)
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="past_key_values cannot be used in training with gradient checkpointing"):
        model(ids, use_cache=True)
