"""From the scores of all tokens to the next one.

Scores are float32 (rows, vocab_size), before softmax. The steps come in transformers' order: repetition penalty, then,
when sampling, temperature, top-k, top-p and the draw. A token that is ruled out has the score -inf.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastbert.models.generation_config import GenerationConfig
from fastbert.ops import draw_rng
from fastbert.ops.philox import elementwise_bytes
from fastbert.packing import sequence_index

_SITE = 0  # of the random bytes; no dropout is drawn beside them


def seen_tokens(input_ids: Tensor, cu_seqlens: Tensor, vocab_size: int) -> Tensor:
    """bool (n, vocab_size): which tokens each packed sequence has."""
    seen = torch.zeros(cu_seqlens.numel() - 1, vocab_size, dtype=torch.bool, device=input_ids.device)
    return seen.index_put_((sequence_index(cu_seqlens, input_ids.numel()), input_ids), seen.new_ones(()))


def penalise_repetition(scores: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Scores of seen tokens nearer to -inf: divided by the penalty if positive, multiplied if negative."""
    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def keep_top_k(scores: Tensor, k: int) -> Tensor:
    """Rule out what scores less than the k-th best; what is equal to it stays."""
    least = scores.topk(min(k, scores.shape[-1])).values[:, -1:]
    return scores.masked_fill(scores < least, -math.inf)


def keep_top_p(scores: Tensor, p: float) -> Tensor:
    """Rule out the least likely tokens whose probabilities together are at most 1 - p, but never the most likely.

    (Holtzman et al. 2019, section 3.1.) Of equally likely tokens those with lower ids go first.
    """
    ascending = scores.sort(stable=True)
    unlikely = ascending.values.softmax(-1).cumsum(-1) <= 1 - p
    unlikely[:, -1] = False
    return scores.masked_fill(unlikely.scatter(1, ascending.indices, unlikely), -math.inf)


def draw(scores: Tensor, uniform: Tensor) -> Tensor:
    """(rows,) the token at which the cumulated probabilities pass each row's number in (0, 1)."""
    cumulated = scores.double().softmax(-1).cumsum(-1)
    # Scaled by the last sum, which rounding may leave off 1: so a token is always found, and never one ruled out.
    return torch.searchsorted(cumulated, uniform[:, None] * cumulated[:, -1:], right=True)[:, 0]


def uniforms(seed: int | None, rows: int, steps: int, device: torch.device) -> Tensor:
    """float64 (rows, steps) in (0, 1): each is a function of seed, row and step, 32 bits of dropout's generator."""
    rng = draw_rng(device) if seed is None else torch.tensor([seed, 0], device=device)
    words = elementwise_bytes(rng, rows, 4 * steps, _SITE).view(torch.int32).long() & 0xFFFFFFFF
    return (words.double() + 0.5) / 2**32


def choose(scores: Tensor, config: GenerationConfig, uniform: Tensor | None) -> Tensor:
    """(rows,) next tokens: drawn by (rows,) numbers in (0, 1), or without them the most likely."""
    if uniform is None:
        return scores.argmax(-1)
    scores = scores / config.temperature
    if config.top_k:
        scores = keep_top_k(scores, config.top_k)
    if config.top_p < 1:
        scores = keep_top_p(scores, config.top_p)
    return draw(scores, uniform)
