"""The door to the attention kernels: what C++ could not survive is one clear sentence before any work."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastbert import _C

Q, K = torch.randn(2, 5, 4, 8), torch.randn(2, 7, 2, 8)
CU = torch.tensor([0, 4, 10], dtype=torch.int32)
DENSE: dict[str, Any] = {
    "dtype": "float32",
    "batch": 2,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 8,
    "seq_q": 5,
    "seq_k": 7,
    "total_q": 0,
    "total_k": 0,
    "cu_seqlens_q": 0,
    "cu_seqlens_k": 0,
    "key_padding_mask": 0,
    "window_left": None,
    "window_right": None,
    "scale": 1.0,
    "dropout_threshold": 0,
    "rng": 0,
    "num_threads": 1,
}
PACKED = DENSE | {
    "total_q": 10,
    "total_k": 14,
    "cu_seqlens_q": CU.data_ptr(),
    "cu_seqlens_k": CU.data_ptr(),
    "seq_q": 6,
    "seq_k": 10,
}
GRADIENTS = ("dq", "dk", "dv")


def strides(problem: dict[str, Any], x: torch.Tensor) -> tuple[int, ...]:
    """Of batch, row and head; the rows of both batch entries are those of the packed tensor."""
    batch, row, head, _ = x.stride()
    return 0 if problem["cu_seqlens_q"] else batch, row, head


def call(problem: dict[str, Any], backward: bool = False, **addresses: int) -> dict[str, torch.Tensor]:
    """The kernel's results; addresses replace those of the tensors."""
    results = {"out": torch.empty_like(Q), "lse": torch.zeros(40)}
    tensors = {"q": Q, "k": K, "v": K} | results
    arguments: dict[str, Any] = {f"{name}_strides": strides(problem, tensors[name]) for name in "qkv"}
    if backward:
        results = {name: torch.empty_like(x) for name, x in zip(GRADIENTS, (Q, K, K), strict=True)}
        arguments |= {"dout_strides": strides(problem, Q)}
        tensors |= {"dout": Q, "dlse": torch.zeros(40)} | results
    arguments |= {name: x.data_ptr() for name, x in tensors.items()}
    kernel = _C.attention_backward if backward else _C.attention_forward
    kernel(_C.AttentionProblem(**problem), **arguments | addresses)
    return results


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dtype": "float64"}, "dtype is 'float64': allowed are float32, bfloat16 and float16"),
        ({"batch": -1}, "batch is -1: allowed are 0 to"),
        ({"heads": 0}, "heads is 0: allowed are 1 to"),
        ({"batch": 2**20, "heads": 2**20}, "heads is 1048576: allowed are 1 to 4096"),
        ({"kv_heads": 0}, "kv_heads is 0: allowed are 1 to 4"),
        ({"kv_heads": 3}, "heads must be a multiple of kv_heads"),
        ({"head_dim": 0}, "head_dim is 0: allowed are 1 to 256"),
        ({"head_dim": 257}, "head_dim is 257: allowed are 1 to 256"),
        ({"seq_q": -3}, "seq_q is -3: allowed are 0 to"),
        ({"seq_k": -1}, "seq_k is -1: allowed are 0 to"),
        ({"batch": 2**30, "seq_q": 2**33}, "seq_q is 8589934592: allowed are 0 to 1024"),
        ({"total_q": 10}, "total_q is 10: allowed are 0 to 0"),
        ({"total_k": 14}, "total_k is 14: allowed are 0 to 0"),
        ({"cu_seqlens_q": CU.data_ptr()}, "cu_seqlens_q and cu_seqlens_k are given together or not at all"),
        (PACKED | {"key_padding_mask": CU.data_ptr()}, "key_padding_mask is for dense calls"),
        (PACKED | {"total_q": -1}, "total_q is -1"),
        (PACKED | {"seq_q": 5}, "attention: max_seqlen_q is 5, but the longest sequence has 6 tokens"),
        (PACKED | {"seq_k": 5}, "attention: max_seqlen_k is 5, but the longest sequence has 6 tokens"),
        ({"dropout_threshold": 256}, "dropout_threshold is 256: allowed are 0 to 255"),
        ({"dropout_threshold": 25}, "dropout needs an rng"),
        ({"num_threads": 0}, "num_threads is 0: allowed are 1 to"),
    ],
)
def test_a_wrong_problem_says_what_is_allowed(wrong: dict[str, Any], message: str, backward: bool) -> None:
    with pytest.raises(ValueError, match=message):
        call(DENSE | wrong, backward)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("backward", "name"),
    [(False, name) for name in ("q", "k", "v", "out", "lse")]
    + [(True, name) for name in ("q", "k", "v", "out", "lse", *GRADIENTS)],
)
def test_an_address_must_not_be_null(backward: bool, name: str, packed: bool) -> None:
    with pytest.raises(ValueError, match=f"^{name} is null: it must be the address of a tensor, unless that is empty"):
        call(PACKED if packed else DENSE, backward, **{name: 0})


@pytest.mark.parametrize("wrong", [(1, 2), (1, 2, 3, 4), ("a", 1, 1)])
def test_strides_are_three_integers(wrong: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match="incompatible function arguments"):
        call(DENSE, q_strides=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("backward", [False, True])
def test_what_is_empty_needs_no_address(backward: bool) -> None:
    """Without queries the gradients of keys and values are zeros; without keys so is everything that is left."""
    nothing = dict.fromkeys(("q", "out", "lse", "dq", "dout", "dlse") if backward else ("q", "out", "lse"), 0)
    results = call(DENSE | {"seq_q": 0}, backward, **nothing)
    if backward:
        assert results["dk"].eq(0).all()
        assert results["dv"].eq(0).all()
    results = call(DENSE | {"seq_k": 0}, backward, **({"dk": 0, "dv": 0} if backward else {}), k=0, v=0)
    if backward:
        assert results["dq"].eq(0).all()
    else:
        assert results["out"].eq(0).all()
        assert results["lse"].eq(-torch.inf).all()


def test_gradients_without_an_address_are_zeros() -> None:
    assert call(DENSE, True)["dq"].ne(0).any()
    for results in (call(DENSE, True, dout=0, dlse=0), call(PACKED, True, dout=0, dlse=0)):
        for name in GRADIENTS:
            assert results[name].eq(0).all()
