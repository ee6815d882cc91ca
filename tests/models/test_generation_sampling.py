"""Sampling against the definitions: probabilities computed in numpy, and frequencies of what generate draws."""

from __future__ import annotations

import math
from typing import Any

import huggingface_peers as peers
import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers
from torch import Tensor

from fastbert.models import GenerationConfig, GPTForPreTraining
from fastbert.models.sampling import choose, draw, keep_top_k, keep_top_p, penalise_repetition, seen_tokens, uniforms
from fastbert.packing import PackedBatch, cumulative_lengths

Array = npt.NDArray[np.float64]


def softmax(scores: Array) -> Array:
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def filtered(scores: Array, temperature: float, top_k: int | None, top_p: float) -> Array:
    """The probabilities of one row by the definitions, in float64: most likely first, as the papers put it."""
    scores = scores / temperature
    if top_k:
        scores = np.where(scores >= np.sort(scores)[::-1][top_k - 1], scores, -np.inf)
    probabilities = softmax(scores)
    descending = np.argsort(-probabilities, kind="stable")
    mass_before = np.concatenate(([0.0], np.cumsum(probabilities[descending])[:-1]))
    kept = descending[(mass_before < top_p) | (np.arange(scores.size) == 0)]
    nucleus = np.zeros_like(probabilities)
    nucleus[kept] = probabilities[kept]
    return nucleus / nucleus.sum()


FILTERS: list[dict[str, Any]] = [
    {"temperature": 1.0, "top_k": None, "top_p": 1.0},
    {"temperature": 0.7, "top_k": 5, "top_p": 1.0},
    {"temperature": 1.5, "top_k": None, "top_p": 0.6},
    {"temperature": 2.0, "top_k": 9, "top_p": 0.8},
]


@pytest.mark.parametrize("filters", FILTERS)
def test_tokens_are_drawn_by_their_probability(filters: dict[str, Any]) -> None:
    """Each number in (0, 1) gives the token in whose interval of the cumulated probabilities it lies."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(40, 30)) * 2
    config = GenerationConfig(max_new_tokens=1, do_sample=True, **filters)
    for row in scores.astype(np.float32):
        bounds = np.concatenate(([0.0], np.cumsum(filtered(row.astype(np.float64), **filters))))
        numbers = rng.uniform(size=50)
        chosen = choose(torch.tensor(row).expand(50, -1), config, torch.tensor(numbers)).numpy()
        assert (bounds[chosen] - 1e-6 <= numbers).all()
        assert (numbers <= bounds[chosen + 1] + 1e-6).all()


@pytest.mark.parametrize("filters", FILTERS)
def test_frequencies_of_generate_are_the_models_probabilities(filters: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = GPTForPreTraining(peers.our_config("gpt2", initializer_range=0.3)).eval()
    prompt = torch.tensor([[7, 8, 9]])
    draws = 20_000
    with torch.no_grad():
        scores = model(prompt).logits[0, -1].double().numpy()
    expected = filtered(scores, **filters) * draws
    tokens = model.generate(
        prompt, max_new_tokens=1, do_sample=True, num_return_sequences=draws, seed=3, eos_token_id=[], **filters
    )
    assert tokens.shape == (draws, 4)
    counts = np.bincount(tokens[:, 3].numpy(), minlength=peers.VOCAB)
    assert (counts[expected == 0] == 0).all()
    possible = expected > 0
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    freedom = possible.sum() - 1
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)


def test_every_step_is_drawn_anew() -> None:
    """Pairs of consecutive tokens have the product of the probabilities, not one number for both."""
    torch.manual_seed(0)
    model = GPTForPreTraining(peers.our_config("gpt2", initializer_range=0.3)).eval()
    with torch.no_grad():
        model.transformer.final_norm.weight.zero_()  # type: ignore[union-attr]
    # All scores are equal: 61 tokens, each as likely, whatever came before.
    tokens = model.generate(
        torch.tensor([[7]]), max_new_tokens=2, do_sample=True, num_return_sequences=20_000, seed=1, eos_token_id=[]
    )
    pairs = torch.bincount(tokens[:, 1] * peers.VOCAB + tokens[:, 2], minlength=peers.VOCAB**2).double()
    expected, freedom = 20_000 / peers.VOCAB**2, peers.VOCAB**2 - 1
    chi_square = float(((pairs - expected) ** 2 / expected).sum())
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("ties", [False, True])
def test_filters_equal_those_of_transformers(ties: bool) -> None:
    torch.manual_seed(0)
    scores = 3 * torch.randn(20, 40)
    scores = scores.round() if ties else scores
    warpers: Any = transformers.generation.logits_process
    for k in (1, 3, 40, 100):
        assert torch.equal(keep_top_k(scores, k), warpers.TopKLogitsWarper(k)(None, scores))
    for p in (0.0, 1e-6, 0.3, 0.9, 0.999):
        ours, theirs = keep_top_p(scores, p), warpers.TopPLogitsWarper(p)(None, scores)
        # Which of equal scores go, their sort leaves open.
        assert torch.equal(ours.sort().values, theirs.sort().values) if ties else torch.equal(ours, theirs)
    ids = torch.randint(0, 40, (20, 6))
    seen = seen_tokens(ids.flatten(), cumulative_lengths(torch.full((20,), 6)), 40)
    for penalty in (0.5, 1.3):
        expected = warpers.RepetitionPenaltyLogitsProcessor(penalty)(ids, scores)
        assert torch.equal(penalise_repetition(scores, seen, penalty), expected)


def test_edges_of_the_filters() -> None:
    scores = torch.tensor([[0.0, 2.0, 2.0, 1.0]])
    hidden = -math.inf
    assert keep_top_k(scores, 1).tolist() == [[hidden, 2.0, 2.0, hidden]]  # a tie with the last stays
    assert keep_top_p(scores, 0.0).tolist() == [[hidden, hidden, 2.0, hidden]]  # one token, never none
    assert keep_top_p(scores, 1e-9).tolist() == [[hidden, hidden, 2.0, hidden]]
    even = torch.zeros(1, 4)
    assert keep_top_p(even, 0.5).tolist() == [[hidden, hidden, 0.0, 0.0]]  # two of them have a half exactly
    last = torch.tensor([[0.0, hidden, 0.0, hidden]])
    numbers = torch.tensor([1e-12, 0.5 + 1e-12, 1 - 1e-12], dtype=torch.float64)
    assert draw(last.expand(3, -1), numbers).tolist() == [0, 2, 2]


def test_numbers_depend_on_seed_row_and_step_alone() -> None:
    cpu = torch.device("cpu")
    many = uniforms(5, 40, 30, cpu)
    assert many.min() > 0
    assert many.max() < 1
    assert many.unique().numel() == many.numel()
    assert torch.equal(uniforms(5, 7, 3, cpu), many[:7, :3])
    assert not torch.equal(uniforms(6, 40, 30, cpu), many)
    torch.manual_seed(1)
    drawn = uniforms(None, 2, 2, cpu)
    assert not torch.equal(uniforms(None, 2, 2, cpu), drawn)
    torch.manual_seed(1)
    assert torch.equal(uniforms(None, 2, 2, cpu), drawn)


def test_a_row_draws_with_its_own_numbers_also_after_others_have_left() -> None:
    torch.manual_seed(0)
    model = GPTForPreTraining(peers.our_config("gpt2", initializer_range=0.3)).eval()
    ends, prompt = list(range(20, 32)), [7, 8, 9]
    options: dict[str, Any] = {"max_new_tokens": 9, "do_sample": True, "seed": 11, "eos_token_id": ends}
    drawn = model.generate(torch.tensor([prompt]), num_return_sequences=6, pad_token_id=1, **options)
    numbers = uniforms(11, 6, 9, torch.device("cpu"))
    lengths = []
    for row, own in zip(drawn.tolist(), numbers, strict=True):
        tokens = list(prompt)
        while len(tokens) < 12 and tokens[-1] not in ends:
            scores = model(torch.tensor([tokens])).logits[:, -1].detach()
            tokens.append(int(draw(scores, own[len(tokens) - 3].view(1))))
        assert row == tokens + [1] * (len(row) - len(tokens))
        lengths.append(len(tokens))
    assert lengths != sorted(lengths, reverse=True)  # one leaves before one that comes after it


def test_a_seed_repeats_a_sample_whatever_comes_after_it_in_the_batch() -> None:
    torch.manual_seed(0)
    model = GPTForPreTraining(peers.our_config("gpt2", initializer_range=0.3))
    options: dict[str, Any] = {
        "max_new_tokens": 9,
        "do_sample": True,
        "top_p": 0.9,
        "seed": 11,
        "eos_token_id": range(20, 32),
    }
    three = [[7, 8, 9], [10, 11], [12, 13, 14, 15]]

    def sample(prompts: list[list[int]], **more: Any) -> list[list[int]]:
        answer = model.generate(PackedBatch.from_sequences(prompts), num_return_sequences=2, **{**options, **more})
        return [
            rows.tolist() for rows in answer.input_ids.split((answer.cu_seqlens[1:] - answer.cu_seqlens[:-1]).tolist())
        ]

    together = sample(three)
    assert len(set(map(len, together))) > 2  # they leave the batch at different times
    assert sample(three) == together
    assert sample(three[:2]) == together[:4]
    assert sample(three[:1]) == together[:2]
    assert together[0] != together[1]
    assert sample(three, seed=12) != together
    again: list[Tensor] = []
    for _ in range(2):
        torch.manual_seed(4)
        again.append(model.generate(torch.tensor([[7, 8]]), max_new_tokens=9, do_sample=True))
    assert torch.equal(*again)
