"""What generate promises besides its tokens: layouts, ends, who leaves the batch, streaming, refusals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import huggingface_peers as peers
import pytest
import torch
from torch import Tensor

from fastbert.models import GenerationConfig, GPTForPreTraining
from fastbert.packing import PackedBatch

GPT_FAMILIES = pytest.mark.parametrize("family", ["openai-gpt", "gpt2"])


def prompts(lengths: list[int], side: str) -> tuple[Tensor, Tensor]:
    torch.manual_seed(9)
    width = max(lengths)
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    mask = mask.flip(1) if side == "left" else mask
    return torch.randint(5, peers.VOCAB, mask.shape) * mask, mask


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


@pytest.fixture
def model() -> GPTForPreTraining:
    torch.manual_seed(0)
    return GPTForPreTraining(peers.our_config("gpt2", initializer_range=0.3))


def continued_by_hand(model: GPTForPreTraining, prompt: list[int], new: int, ends: tuple[int, ...] = ()) -> list[int]:
    """Greedy search as it is defined: the whole sequence anew for every token, without cache or batch."""
    tokens = list(prompt)
    model.eval()
    for _ in range(new):
        tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] in ends:
            break
    return tokens[len(prompt) :]


def test_prompts_that_are_done_are_filled_up(model: GPTForPreTraining) -> None:
    ids, mask = prompts([5, 3], "left")
    free = continued_by_hand(model, ids[0].tolist(), 10)
    end = free[2]
    said = [
        continued_by_hand(model, row[keep.bool()].tolist(), 10, (end,)) for row, keep in zip(ids, mask, strict=True)
    ]
    longest = max(map(len, said))
    for pad, filler in ((0, 0), (None, end)):
        ended = model.generate(ids, mask, max_new_tokens=10, eos_token_id=end, pad_token_id=pad)
        assert ended[:, 5:].tolist() == [row + [filler] * (longest - len(row)) for row in said]
    alone = model.generate(ids[:1], mask[:1], max_new_tokens=10, eos_token_id=[end])
    assert alone.tolist() == [ids[0].tolist() + said[0]]  # it stops when all are done


def test_the_models_end_token_ends_unless_another_is_given(model: GPTForPreTraining) -> None:
    free = continued_by_hand(model, [7, 8, 9], 8)
    model.config.eos_token_id, model.config.pad_token_id = free[1], 3
    ids = torch.tensor([[7, 8, 9], [7, 8, 9]])
    assert model.generate(ids, max_new_tokens=8)[:, 3:].tolist() == [free[: free.index(free[1]) + 1]] * 2
    assert model.generate(ids, max_new_tokens=8, eos_token_id=[])[:, 3:].tolist() == [free] * 2
    first = min(free.index(free[2]), free.index(free[3]))
    ended = model.generate(ids, max_new_tokens=8, eos_token_id=[free[3], free[2]])
    assert ended[:, 3:].tolist() == [free[: first + 1]] * 2


def test_nothing_is_computed_of_what_is_done(model: GPTForPreTraining) -> None:
    """The rows of every forward: first all prompts without their padding, then one for each that goes on."""
    sequences = [[7, 8, 9], [10], [11, 12], [13, 14, 15, 16], [17, 18]]
    free = [continued_by_hand(model, sequence, 9) for sequence in sequences]
    ends = (free[0][1], free[3][4])
    said = [continued_by_hand(model, sequence, 9, ends) for sequence in sequences]
    rows: list[int] = []
    hook = model.transformer.blocks[0].register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))
    answer = model.generate(PackedBatch.from_sequences(sequences), max_new_tokens=9, eos_token_id=ends)
    hook.remove()
    assert rows[0] == 12
    assert rows[1:] == [sum(len(row) > step for row in said) for step in range(1, max(map(len, said)))]
    assert len(set(map(len, said))) > 2  # they leave at different times
    assert answer.input_ids.tolist() == [t for pair in zip(sequences, said, strict=True) for row in pair for t in row]
    assert answer.cu_seqlens.diff().tolist() == [len(a) + len(b) for a, b in zip(sequences, said, strict=True)]
    assert answer.position_ids[answer.cu_seqlens[:-1].long()].tolist() == [0] * 5


def test_stop_when_is_asked_after_every_token(model: GPTForPreTraining) -> None:
    free = continued_by_hand(model, [7, 8, 9], 6)
    asked: list[list[int]] = []

    def three(tokens: Sequence[int]) -> bool:
        asked.append(list(tokens))
        return len(tokens) == 3

    options: dict[str, Any] = {"max_new_tokens": 6, "eos_token_id": [], "stop_when": three}
    answer = model.generate(torch.tensor([[7, 8, 9]]), pad_token_id=0, **options)
    assert answer[0, 3:].tolist() == free[:3]
    assert asked == [free[:1], free[:2], free[:3]]
    beams = model.generate(torch.tensor([[7, 8, 9]]), pad_token_id=0, num_beams=3, num_return_sequences=2, **options)
    assert beams.shape == (2, 6)
    model.config.eos_token_id = model.config.pad_token_id = None
    with pytest.raises(ValueError, match="pad_token_id must be given: stop_when may end one continuation"):
        model.generate(torch.tensor([[7, 8, 9]]), max_new_tokens=6, stop_when=three)


class Recorder:
    """A streamer that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[list[Any] | str] = []

    def put(self, value: Tensor) -> None:
        self.told.append(value.tolist())

    def end(self) -> None:
        self.told.append("end")


def test_a_streamer_is_told_every_token_as_it_comes(model: GPTForPreTraining) -> None:
    ids = torch.tensor([[7, 8, 9], [10, 11, 12]])
    end = continued_by_hand(model, [7, 8, 9], 3)[-1]
    recorder = Recorder()
    answer = model.generate(ids, max_new_tokens=6, eos_token_id=end, pad_token_id=0, streamer=recorder)
    assert recorder.told == [ids.tolist(), *answer[:, 3:].T.tolist(), "end"]
    packed = Recorder()
    model.generate(PackedBatch.from_sequences([[7, 8, 9]]), max_new_tokens=2, streamer=packed)
    assert packed.told == [[7, 8, 9], [int(answer[0, 3])], [int(answer[0, 4])], "end"]
    with pytest.raises(ValueError, match="streamer: the tokens of a beam search come at its end; num_beams is 2"):
        model.generate(ids, max_new_tokens=2, num_beams=2, streamer=recorder)


def test_a_configuration_holds_options_and_keywords_change_them(model: GPTForPreTraining) -> None:
    config = GenerationConfig(max_new_tokens=3, eos_token_id=[])
    free = continued_by_hand(model, [7, 8, 9], 5)
    ids = torch.tensor([[7, 8, 9]])
    assert model.generate(ids, generation_config=config)[0, 3:].tolist() == free[:3]
    assert model.generate(ids, generation_config=config, max_new_tokens=5)[0, 3:].tolist() == free
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.top_k = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"do_sample": True, "temperature": 0.0}, r"temperature must be above 0 and finite, got 0\.0"),
        ({"do_sample": True, "top_p": 1.5}, r"top_p must be between 0 and 1, got 1\.5"),
        ({"do_sample": True, "top_k": -1}, "top_k must be None or at least 0, got -1"),
        ({"repetition_penalty": 0.0}, r"repetition_penalty must be above 0 and finite, got 0\.0"),
        ({"num_beams": 2, "early_stopping": "soon"}, "early_stopping must be False, True or \"never\", got 'soon'"),
        ({"num_beams": 2, "length_penalty": float("nan")}, "length_penalty must be finite, got nan"),
        ({"seed": -1}, r"seed must be None or from 0 to 2\^63 - 1, got -1"),
        ({"num_beams": 2, "do_sample": True}, "do_sample draws single tokens: num_beams must be 1 with it, got 2"),
        ({"num_return_sequences": 2}, "num_return_sequences must be at most num_beams 1 without do_sample, got 2"),
        ({"top_k": 5}, "top_k=5 has no effect without do_sample=True"),
        ({"length_penalty": 2.0}, r"length_penalty=2\.0 has no effect without num_beams above 1"),
        ({"eos_token_id": 61}, r"eos_token_id must lie in \[0, 61\), got 61"),
        ({"num_beams": 31}, "num_beams 31 looks at 62 extensions; the vocabulary has only 61 tokens"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    model: GPTForPreTraining, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.generate(torch.tensor([[7, 8, 9]]), **{"max_new_tokens": 2, **options})


def test_scores_that_are_no_numbers_are_refused(model: GPTForPreTraining) -> None:
    with torch.no_grad():
        model.transformer.embeddings.positions.weight[3] = float("nan")
    ids = torch.tensor([[7, 8, 9]])
    assert model.generate(ids, max_new_tokens=1).shape == (1, 4)
    with pytest.raises(ArithmeticError, match="the model's scores of the next token are NaN"):
        model.generate(ids, max_new_tokens=2, do_sample=True)


def test_generation_leaves_the_mode_and_refuses_what_does_not_fit() -> None:
    model = GPTForPreTraining(peers.our_config("gpt2", hidden_dropout_prob=0.5)).train()
    ids = torch.tensor([[7, 8, 9]])
    assert torch.equal(model.generate(ids, max_new_tokens=3), model.generate(ids, max_new_tokens=3))
    assert model.training
    assert model.generate(ids, max_new_tokens=21).shape == (1, 24)
    ran: list[object] = []
    hook = model.transformer.register_forward_pre_hook(lambda *arguments: ran.append(arguments))
    told = Recorder()
    with pytest.raises(ValueError, match=r"a prompt of 3 tokens and max_new_tokens 22 exceed the model's 24 positions"):
        model.generate(ids, max_new_tokens=22, streamer=told)
    for prompts_without_a_token in (torch.zeros(1, 3, dtype=torch.long), torch.zeros(0, 3, dtype=torch.long)):
        with pytest.raises(ValueError, match="every prompt must have at least one token"):
            model.generate(prompts_without_a_token, torch.zeros_like(prompts_without_a_token), max_new_tokens=1)
    with pytest.raises(TypeError, match="max_tokens"):
        model.generate(ids, max_tokens=3)
    hook.remove()
    assert ran == told.told == []
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="past_key_values cannot be used in training with gradient checkpointing"):
        model(ids, use_cache=True)
