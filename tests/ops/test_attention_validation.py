"""Wrong arguments: which one, what came, what is allowed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from problems import BACKENDS

from fastbert.ops import attention, attention_varlen, validation

Q = torch.randn(2, 5, 4, 8)
K = torch.randn(2, 7, 2, 8)
ROWS = torch.randn(6, 2, 8)
CU = torch.tensor([0, 2, 6], dtype=torch.int32)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"q": [1.0]}, TypeError, "q is a list; it must be a tensor"),
        ({"q": Q[0]}, ValueError, r"q has shape \(5, 4, 8\); it must be \(batch, seq, heads, head_dim\)"),
        ({"q": Q.double(), "k": K.double(), "v": K.double()}, TypeError, "q is torch.float64; allowed are float32"),
        ({"q": Q.long(), "k": K.long(), "v": K.long()}, TypeError, "q is torch.int64"),
        ({"k": K.half()}, TypeError, "torch.float32, torch.float16, torch.float32; they must be of one type"),
        ({"k": K.to("meta")}, ValueError, "are on cpu, meta, cpu; they must be on one device"),
        ({"v": K[:, :3]}, ValueError, r"v has shape \(2, 3, 2, 8\); it must be that of k"),
        ({"k": K[..., :4], "v": K[..., :4]}, ValueError, "k has head_dim 4 but q has 8"),
        ({"q": Q[:1]}, ValueError, "k has batch 2 but q has 1"),
        ({"q": Q[:, :, :3]}, ValueError, "q has 3 heads and k has 2; q's must be a positive multiple"),
        ({"q": Q[:, :, :0]}, ValueError, "q has 0 heads"),
        ({"q": torch.zeros(1, 1, 1, 257), "k": torch.zeros(1, 1, 1, 257)}, ValueError, "shape"),
        ({"key_padding_mask": torch.ones(2, 7)}, TypeError, "key_padding_mask is torch.float32"),
        ({"key_padding_mask": torch.ones(7, dtype=torch.bool)}, ValueError, r"key_padding_mask has shape \(7,\)"),
        ({"key_padding_mask": [True]}, TypeError, "key_padding_mask is a list"),
        ({"causal": 1}, TypeError, "causal is a int"),
        ({"window": 3}, TypeError, "window is 3; it must be a pair"),
        ({"window": (1, 2, 3)}, TypeError, "window is"),
        ({"window": (-1, 0)}, ValueError, r"window is \(-1, 0\); each side must be at least 0, or None"),
        ({"window": (1.5, 0)}, TypeError, "each side must be an int or None"),
        ({"scale": float("nan")}, ValueError, "scale is nan"),
        ({"scale": "big"}, ValueError, "scale is 'big'"),
        ({"dropout_p": 1.5}, ValueError, r"dropout probability is 1.5; it must be a number in \[0, 1\]"),
        ({"dropout_p": True}, ValueError, "dropout probability is True"),
        ({"rng": torch.zeros(2)}, TypeError, "rng is torch.float32"),
        ({"rng": torch.zeros(4, dtype=torch.int64)}, ValueError, r"rng has shape \(4,\)"),
        ({"deterministic": 1}, TypeError, "deterministic is 1"),
        ({"backend": 3}, TypeError, "backend is a int"),
        ({"backend": "fast"}, ValueError, "backend is 'fast'; allowed are auto, reference, sdpa"),
    ],
)
def test_dense(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"q": Q, "k": K, "v": K} | changes
    with pytest.raises(error, match=message):
        attention(**arguments)


def test_head_dim_limit() -> None:
    x = torch.zeros(1, 1, 1, 257)
    with pytest.raises(ValueError, match="q has head_dim 257; allowed are 1 to 256"):
        attention(x, x, x)
    x = torch.zeros(1, 1, 1, 0)
    with pytest.raises(ValueError, match="q has head_dim 0"):
        attention(x, x, x)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"q": Q}, ValueError, r"q has shape .* it must be \(total, heads, head_dim\)"),
        ({"cu_seqlens_q": CU.long()}, TypeError, "cu_seqlens_q is torch.int64; it must be torch.int32"),
        ({"cu_seqlens_k": [0, 6]}, TypeError, "cu_seqlens_k is a list"),
        ({"cu_seqlens_q": CU[None]}, ValueError, r"cu_seqlens_q has shape \(1, 3\); it must be \(n \+ 1,\)"),
        ({"cu_seqlens_q": CU[:0], "cu_seqlens_k": CU[:0]}, ValueError, r"cu_seqlens_q has shape \(0,\)"),
        ({"cu_seqlens_k": CU[:2]}, ValueError, "cu_seqlens_q has 3 entries but cu_seqlens_k has 2"),
        ({"cu_seqlens_q": CU.to("meta")}, ValueError, "cu_seqlens_q is on meta"),
        ({"max_seqlen_q": torch.tensor(4)}, TypeError, "max_seqlen_q is a Tensor; it must be a Python int"),
        ({"max_seqlen_k": 4.0}, TypeError, "max_seqlen_k is a float"),
        ({"max_seqlen_k": -1}, ValueError, "max_seqlen_k is -1"),
    ],
)
def test_varlen(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "q": ROWS,
        "k": ROWS,
        "v": ROWS,
        "cu_seqlens_q": CU,
        "cu_seqlens_k": CU,
        "max_seqlen_q": 4,
        "max_seqlen_k": 4,
    }
    with pytest.raises(error, match=message):
        attention_varlen(**arguments | changes)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("argument", ["max_seqlen_q", "max_seqlen_k"])
def test_a_bound_below_the_longest_sequence(backend: str, argument: str) -> None:
    cu = torch.tensor([0, 1, 6], dtype=torch.int32)
    arguments: dict[str, Any] = {"cu_seqlens_q": cu, "cu_seqlens_k": cu, "max_seqlen_q": 5, "max_seqlen_k": 5}
    attention_varlen(ROWS, ROWS, ROWS, **arguments, backend=backend)
    with pytest.raises(ValueError, match=f"{argument} is 3, but the longest sequence has 5 tokens"):
        attention_varlen(ROWS, ROWS, ROWS, **arguments | {argument: 3}, backend=backend)


@pytest.mark.parametrize(
    ("lengths", "bound", "message"),
    [
        ([1, 2, 6], 4, "cu_seqlens_q starts at 1; it must start at 0"),
        ([0, 4, 3], 4, "cu_seqlens_q decreases at entry 2"),
        ([0, 4, 7], 4, "cu_seqlens_q ends at 7 but there are 6 rows"),
    ],
)
def test_values_are_checked_on_request(
    monkeypatch: pytest.MonkeyPatch, lengths: list[int], bound: int, message: str
) -> None:
    arguments: dict[str, Any] = {
        "cu_seqlens_q": torch.tensor(lengths, dtype=torch.int32),
        "cu_seqlens_k": CU,
        "max_seqlen_q": bound,
        "max_seqlen_k": 4,
    }
    attention_varlen(ROWS, ROWS, ROWS, **arguments)
    monkeypatch.setattr(validation, "CHECK_VALUES", True)
    with pytest.raises(ValueError, match=message):
        attention_varlen(ROWS, ROWS, ROWS, **arguments)
    attention_varlen(ROWS, ROWS, ROWS, **arguments | {"cu_seqlens_q": CU, "max_seqlen_q": 4})
