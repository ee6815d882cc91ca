"""What the CPU kernels keep and touch: no matrix of scores, no key that nobody sees, nothing beyond a buffer."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from definition import Call
from interpreter import run_code
from problems import DTYPES, Dense, gradients, run_dense, with_dropout
from torch import Tensor

from fastbert import _C
from fastbert.ops.backends import calls, cpu
from fastbert.ops.problem import AttentionOptions, lse_shape
from fastbert.packing import cumulative_lengths


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts kilobytes on Linux only")
def test_no_matrix_of_scores_is_kept() -> None:
    """One head of 16,384 tokens: one float32 matrix of scores would be 1 GiB."""
    result = run_code(
        """
        import resource
        import torch
        from problems import FULL, Dense, gradients, run_dense

        def step(seq):
            inputs = Dense(1, seq, seq, 1, 1, 8).tensors()
            out = run_dense("cpu", *inputs, FULL)
            gradients(out, torch.ones_like(out), inputs)

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

        torch.set_num_threads(2)
        step(64)
        before = peak()
        step(16384)
        print(peak() - before)
        """
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 100  # MiB; the tensors themselves are 5


# A NaN reaches all that it is multiplied with, by zero too, so it shows which tiles were computed. A tile of any
# instruction set is at most this large on either side.
TILE = 128
WINDOW = 64


@pytest.mark.parametrize("seq", [8192, pytest.param(16384, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tiles_outside_the_window_are_not_computed(seed: int, dtype: torch.dtype, seq: int) -> None:
    call, marked = Call(window=(WINDOW, 0)), seq // 2
    q, k, v = (x.detach() for x in Dense(1, seq, seq, 1, 1, 8, dtype=dtype).tensors())
    v[:, marked] = torch.nan
    inputs = [x.requires_grad_() for x in (q, k, v)]
    out = run_dense("cpu", *inputs, call)
    touched = out.isnan().any(-1).flatten().nonzero().flatten().tolist()
    assert set(range(marked, marked + WINDOW + 1)) <= set(touched)
    assert marked - TILE <= touched[0]
    assert touched[-1] <= marked + WINDOW + TILE

    with torch.no_grad():
        v[:, marked] = 0
    dout = torch.ones_like(out)
    dout[:, marked] = torch.nan
    dq, dk, dv = gradients(run_dense("cpu", *inputs, call), dout, inputs)
    assert dq.isnan().any(-1).flatten().nonzero().flatten().tolist() == [marked]
    for gradient in (dk, dv):
        touched = gradient.isnan().any(-1).flatten().nonzero().flatten().tolist()
        assert set(range(marked - WINDOW, marked + 1)) <= set(touched)
        assert marked - WINDOW - TILE <= touched[0]
        assert touched[-1] <= marked + TILE


@dataclass
class Fenced:
    """Tensors whose memory ends, or begins, at a page that may not be touched: reaching beyond is the process's end."""

    at_end: bool
    held: list[Any] = field(default_factory=list)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        count = torch.Size(shape).numel()
        size = count * dtype.itemsize
        if size == 0:
            return torch.empty(shape, dtype=dtype)
        page = mmap.PAGESIZE
        inner = (size + page - 1) // page * page
        memory = mmap.mmap(-1, inner + 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        libc = ctypes.CDLL(None, use_errno=True)
        for fence in (start, start + page + inner):
            if libc.mprotect(ctypes.c_void_p(fence), ctypes.c_size_t(page), 0) != 0:
                raise OSError(ctypes.get_errno(), "mprotect")
        self.held.append(memory)
        offset = page + (inner - size if self.at_end else 0)
        return torch.frombuffer(memory, dtype=dtype, count=count, offset=offset).view(shape)

    def copy(self, x: Tensor | None) -> Tensor | None:
        return None if x is None else self.empty(tuple(x.shape), x.dtype).copy_(x)


def kernel_results(
    new: Fenced | None, inputs: list[Tensor], dout: Tensor, dlse: Tensor, options: AttentionOptions
) -> list[Tensor]:
    """Of the kernels themselves, out, lse, dq, dk and dv, in memory that is fenced or not."""

    def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype) if new is None else new.empty(shape, dtype)

    q, k, v = inputs
    out, lse = empty(tuple(q.shape), q.dtype), empty(lse_shape(q), torch.float32)
    results = [empty(tuple(x.shape), x.dtype) for x in inputs]
    problem, read = calls.describe(q, k, options), cpu._addresses(q, k, v)
    _C.attention_forward(problem, *read, out.data_ptr(), lse.data_ptr())
    given = (dout.data_ptr(), calls.strides(dout), dlse.data_ptr())
    _C.attention_backward(problem, *read, out.data_ptr(), lse.data_ptr(), *given, *(x.data_ptr() for x in results))
    return [out, lse, *results]


def drawn(seq_q: int, seq_k: int, head_dim: int, packed: bool, dtype: torch.dtype) -> tuple[list[Tensor], Any]:
    """q, k, v, dout and dlse, and options that name tensors of every kind."""
    heads, kv_heads = 2, 1
    leading_q, leading_k = ((seq_q + 3,), (seq_k + 5,)) if packed else ((2, seq_q), (2, seq_k))
    q, dout = (torch.randn(*leading_q, heads, head_dim).to(dtype) for _ in range(2))
    k, v = (torch.randn(*leading_k, kv_heads, head_dim).to(dtype) for _ in range(2))
    call = with_dropout(Call(), 0.2)
    options = AttentionOptions(
        window_left=None,
        window_right=0 if seq_q % 2 else None,
        scale=0.3,
        dropout_threshold=51 if head_dim % 2 else 0,
        deterministic=False,
        key_padding_mask=None if packed else torch.rand(2, seq_k) < 0.8,
        rng=call.rng,
        cu_seqlens_q=cumulative_lengths(torch.tensor([seq_q, 3])) if packed else None,
        cu_seqlens_k=cumulative_lengths(torch.tensor([seq_k, 5])) if packed else None,
        max_seqlen_q=max(seq_q, 3) if packed else seq_q,
        max_seqlen_k=max(seq_k, 5) if packed else seq_k,
    )
    return [q, k, v, dout, torch.randn(lse_shape(q))], options


def fenced_problems() -> Iterator[tuple[int, int, int, bool, torch.dtype]]:
    """Lengths and head_dims around the tiles and vectors, and keys of several backward pieces."""
    for dtype in DTYPES:
        for packed in (False, True):
            for seq_q, seq_k in ((1, 1), (5, 9), (16, 32), (47, 33), (49, 129), (40, 600)):
                for head_dim in (1, 8, 15, 17, 33, 64):
                    yield seq_q, seq_k, head_dim, packed, dtype


def check_fences(problem: tuple[int, int, int, bool, torch.dtype]) -> None:
    tensors = ("key_padding_mask", "rng", "cu_seqlens_q", "cu_seqlens_k")
    torch.manual_seed(0)
    (q, k, v, dout, dlse), options = drawn(*problem)
    wanted = kernel_results(None, [q, k, v], dout, dlse, options)
    for new in (Fenced(at_end=True), Fenced(at_end=False)):
        q, k, v, dout, dlse = (new.copy(x) for x in (q, k, v, dout, dlse))  # type: ignore[assignment]
        inside = options._replace(**{name: new.copy(getattr(options, name)) for name in tensors})
        found = kernel_results(new, [q, k, v], dout, dlse, inside)
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="memory protection as Linux has it")
@pytest.mark.parametrize("instruction_set", ["", "generic"])
def test_nothing_beyond_a_buffer_is_touched(instruction_set: str) -> None:
    """In a process of its own: whoever reaches beyond a fence ends it, after the problem was named."""
    result = run_code(
        """
        from test_cpu_memory import check_fences, fenced_problems
        for problem in fenced_problems():
            print(problem, flush=True)
            check_fences(problem)
        print("inside")
        """,
        FASTBERT_CPU_ISA=instruction_set,
    )
    assert result.stdout.splitlines()[-1:] == ["inside"], result.stdout[-200:] + result.stderr
    assert result.returncode == 0
