"""The kernels as they run on an sm_80 GPU: Triton's PTX for it, executed by the PTX emulator.

:func:`attention` takes dense or packed NumPy arrays and returns what the three kernels write. What is unwritten may not
be read, and a result that was not written is an error: that is the emulator's own doing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from attention_variants import Variant, compiled
from emulated_launch import launch
from ptx_emulator import Memory
from ptx_emulator.memory import Buffer


@dataclass(frozen=True)
class Call:
    """Options of one call, in the kernels' own terms."""

    heads: int
    kv_heads: int
    seq_q: int
    seq_k: int
    scale: float
    features: tuple[str, ...]
    window: tuple[int, int] = (0, 0)
    cu_seqlens_q: tuple[int, ...] | None = None
    cu_seqlens_k: tuple[int, ...] | None = None
    seed: int = 0
    offset: int = 0
    threshold: int = 0


def to_bf16(x: np.ndarray) -> np.ndarray:
    """The bits, rounded to nearest even."""
    words = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((words + 0x7FFF + (words >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    dout: np.ndarray,
    call: Call,
    key_padding_mask: np.ndarray | None = None,
    dlse: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """out, lse, dq, dk, dv of float32 arrays that hold bfloat16 values, in the arrays' own layout, as float64."""
    memory = Memory()
    given = {"q": q, "k": k, "v": v, "dout": dout}
    buffers = {name: memory.upload(to_bf16(x)) for name, x in given.items()}
    results = {"out": q, "dq": q, "dk": k, "dv": v}
    buffers |= {name: memory.empty(2 * x.size) for name, x in results.items()}
    packed = call.cu_seqlens_q is not None
    statistics = (call.heads, q.shape[0]) if packed else (q.shape[0], call.heads, call.seq_q)
    buffers |= {name: memory.empty(4 * int(np.prod(statistics))) for name in ("lse", "delta")}
    buffers["rng"] = memory.upload(np.array([call.seed, call.offset], np.int64))
    for name, x, dtype in (
        ("cu_seqlens_q", call.cu_seqlens_q, np.int32),
        ("cu_seqlens_k", call.cu_seqlens_k, np.int32),
        ("key_padding_mask", key_padding_mask, np.uint8),
        ("dlse", dlse, np.float32),
    ):
        if x is not None:
            buffers[name] = memory.upload(np.asarray(x, dtype))
    sequences = len(call.cu_seqlens_q) - 1 if call.cu_seqlens_q is not None else q.shape[0]
    values = {
        "sequences": sequences,
        "heads": call.heads,
        "group": call.heads // call.kv_heads,
        "total_q": q.shape[0],
        "total_k": k.shape[0],
        "seq_q": call.seq_q,
        "seq_k": call.seq_k,
        "window_left": call.window[0],
        "window_right": call.window[1],
        "scale": call.scale,
        "dropout_threshold": call.threshold,
    }
    for name, x in given.items():
        strides = (x.shape[-2] * x.shape[-1], x.shape[-1])
        values |= {f"{name}_batch": 0 if packed else x.shape[1] * strides[0], f"{name}_row": strides[0]}
        values[f"{name}_head"] = strides[1]
    for kernel in ("forward", "backward_q", "backward_k"):
        features = tuple(x for x in call.features if x != "dlse" or kernel == "backward_q")
        _launch(Variant(kernel, "sm_80", "bf16", q.shape[-1], features), values, buffers, sequences + packed, memory)
    found = {name: from_bf16(memory.read(buffers[name], np.uint16, x.shape)) for name, x in results.items()}
    return found | {"lse": memory.read(buffers["lse"], np.float32, statistics)}


def _launch(
    variant: Variant, values: dict[str, float], buffers: dict[str, Buffer], sequences: int, memory: Memory
) -> None:
    tiles = variant.configuration
    by_key = variant.kernel == "backward_k"
    count = -(-values["seq_k"] // tiles.block_k) if by_key else -(-values["seq_q"] // tiles.block_q)
    heads = values["heads"] // values["group"] if by_key else values["heads"]
    known = {**values, **buffers, "tiles": count}
    launch(variant, compiled(variant), int(sequences * heads * count), tiles.num_warps, known, memory)
