"""The GPU benchmark's rows: what is computed, on which numbers, and what must come out.

Every row has 16,384 tokens of 2,048 numbers, bfloat16, random.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TOKENS, WIDTH = 16384, 2048
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)


@dataclass(frozen=True)
class Problem:
    """One row: batch and heads follow from 16,384 tokens of 2,048 numbers.

    Attributes:
        seq: length; packed lengths are uniform in [seq / 8, seq], the first one being seq.
        head_dim: numbers a head.
        causal: bottom-right aligned mask.
        packed: sequences one after the other, with cumulative lengths.
        dropout_p: of the attention weights.
        backward: the backward alone, of a graph that is kept; else the forward of training.
    """

    seq: int
    head_dim: int
    causal: bool = False
    packed: bool = False
    dropout_p: float = 0.0
    backward: bool = False

    @property
    def heads(self) -> int:
        return WIDTH // self.head_dim

    @property
    def batch(self) -> int:
        return TOKENS // self.seq

    def __str__(self) -> str:
        words = ["backward" if self.backward else "forward", f"d{self.head_dim}", f"{self.seq}"]
        words += ["causal"] * self.causal + ["packed"] * self.packed + ["dropout"] * bool(self.dropout_p)
        return " ".join(words)


def problems() -> Iterator[Problem]:
    """The rows, what matters most first: whatever no longer fits in the time is listed as not measured."""
    for seq, backward in itertools.product((512, 1024, 128, 2048, 256, 4096, 16384, 8192), (False, True)):
        yield Problem(seq, 64, backward=backward)
    for seq, backward in itertools.product((512, 2048, 128), (False, True)):
        yield Problem(seq, 64, causal=True, backward=backward)
        yield Problem(seq, 64, packed=True, backward=backward)
        yield Problem(seq, 64, dropout_p=0.1, backward=backward)
    for seq, backward in itertools.product(LENGTHS, (False, True)):
        yield Problem(seq, 128, backward=backward)
        if seq not in (128, 512, 2048):
            yield Problem(seq, 64, causal=True, backward=backward)
        yield Problem(seq, 128, causal=True, backward=backward)


def lengths_of(problem: Problem) -> list[int]:
    """Of the sequences, which fill the tokens exactly where they are not packed."""
    if not problem.packed:
        return [problem.seq] * problem.batch
    generator = torch.Generator().manual_seed(problem.seq)
    lengths = torch.randint(problem.seq // 8, problem.seq + 1, (problem.batch,), generator=generator).tolist()
    return [problem.seq, *lengths[1:]]


def flop(problem: Problem) -> float:
    """Useful arithmetic: four operations a visible score and number of head_dim, in the backward ten."""
    scores = sum(n * (n + 1) / 2 if problem.causal else n * n for n in lengths_of(problem))
    return (10 if problem.backward else 4) * scores * problem.heads * problem.head_dim


@dataclass(frozen=True)
class Operands:
    """Leaves of one layout, and the gradient of the output."""

    q: Tensor
    k: Tensor
    v: Tensor
    dout: Tensor
    cu_seqlens: Tensor | None


def operands(problem: Problem, heads_first: bool) -> Operands:
    """The same numbers for every side: (batch, seq, heads, head_dim), or (batch, heads, seq, head_dim); or packed."""
    generator = torch.Generator("cuda").manual_seed(20180611)
    lengths = lengths_of(problem)
    leading = (sum(lengths),) if problem.packed else (problem.batch, problem.seq)
    tensors = [
        torch.randn(*leading, problem.heads, problem.head_dim, device="cuda", generator=generator).bfloat16()
        for _ in range(4)
    ]
    if heads_first:
        tensors = [x.transpose(1, 2).contiguous() for x in tensors]
    q, k, v = (x.requires_grad_() for x in tensors[:3])
    cu_seqlens = None
    if problem.packed:
        cu_seqlens = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device="cuda")
    return Operands(q, k, v, tensors[3], cu_seqlens)


def expected(problem: Problem) -> Sequence[Tensor]:
    """The output, or the three gradients, of the first sequence, by the definition in float32."""
    x = operands(problem, heads_first=False)
    n = lengths_of(problem)[0]
    pick = (slice(0, n),) if problem.packed else (0,)
    q, k, v = (t.detach()[pick].float().transpose(0, 1).requires_grad_() for t in (x.q, x.k, x.v))
    scores = q @ k.transpose(1, 2) * problem.head_dim**-0.5
    if problem.causal:
        scores = scores.masked_fill(torch.ones(n, n, dtype=torch.bool, device="cuda").triu(1), -torch.inf)
    out = torch.softmax(scores, -1) @ v
    if not problem.backward:
        return [out.detach().transpose(0, 1)]
    return [g.transpose(0, 1) for g in torch.autograd.grad(out, (q, k, v), x.dout[pick].float().transpose(0, 1))]
