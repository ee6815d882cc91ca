"""The fused row-by-row operators on any GPU that Triton compiles for: tensors become launches of kernels/.

:mod:`fastbert.ops.elementwise_cpu` has the same functions. Sums over rows are made in chunks that depend on the shape
alone, then by torch: the same bits in every run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastbert.kernels.configurations import RowTile, class_block, contracts, row_tile, rows_of_a_chunk
from fastbert.ops import philox, triton_runtime


def dropout_add(x: Tensor, residual: Tensor | None, rng: Tensor, site: int, threshold: int) -> Tensor:
    """residual + dropout(x), or dropout(x) alone."""
    residual = None if residual is None else residual.contiguous()
    return _mapped("dropout_add", "dropout_add", x, residual=residual, **_dropout(rng, site, threshold))


def bias_gelu_forward(x: Tensor, bias: Tensor, approximate: str) -> Tensor:
    """GELU(x + bias)."""
    return _mapped("bias_gelu", "bias_gelu_forward", x, bias=bias.contiguous(), tanh=approximate == "tanh")


def bias_gelu_backward(dout: Tensor, x: Tensor, bias: Tensor, approximate: str) -> tuple[Tensor, Tensor]:
    """dx, dbias."""
    dout, x = dout.contiguous(), x.contiguous()
    dx = torch.empty_like(x)
    rows, columns = x.shape
    if rows == 0:
        return dx, torch.zeros_like(bias)
    tile = row_tile(columns, whole=False)
    rows_each = rows_of_a_chunk(rows, tile.rows)
    dbias = _floats(x, -(-rows // rows_each), columns)
    _launch(
        "bias_gelu",
        "bias_gelu_backward",
        dbias.shape[0] * -(-columns // tile.columns),
        dout=dout,
        x=x,
        bias=bias.contiguous(),
        dx=dx,
        dbias=dbias,
        rows=rows,
        columns=columns,
        rows_each=rows_each,
        tanh=approximate == "tanh",
        **_tile(tile),
    )
    return dx, dbias.sum(0)


def layer_norm_forward(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    rng: Tensor | None,
    site: int,
    threshold: int,
    eps: float,
    return_sum: bool,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """out, the sum where it is wanted, and (2, rows) float32: mean and 1 / standard deviation."""
    x = x.contiguous()
    rows, columns = x.shape
    out, total = torch.empty_like(x), torch.empty_like(x) if return_sum else None
    statistics = _floats(x, 2, rows)
    if rows == 0:
        return out, total, statistics
    tile = row_tile(columns, whole=True)
    _launch(
        "layer_norm",
        "layer_norm_forward",
        -(-rows // tile.rows),
        x=x,
        residual=residual.contiguous(),
        weight=weight.contiguous(),
        bias=bias.contiguous(),
        out=out,
        total=total,
        mean=statistics[0],
        rstd=statistics[1],
        rows=rows,
        columns=columns,
        **_dropout(rng, site, threshold),
        eps=eps,
        **_tile(tile),
    )
    return out, total, statistics


def layer_norm_backward(
    dout: Tensor,
    dtotal: Tensor | None,
    x: Tensor | None,
    residual: Tensor | None,
    total: Tensor | None,
    weight: Tensor,
    statistics: Tensor,
    rng: Tensor | None,
    site: int,
    threshold: int,
) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    """dx (None without dropout: it is dresidual), dresidual, dweight, dbias. Reads the sum, or else x and residual."""
    dout, statistics = dout.contiguous(), statistics.contiguous()
    rows, columns = dout.shape
    dresidual = torch.empty_like(dout)
    dx = torch.empty_like(dout) if threshold else None
    if rows == 0:
        return dx, dresidual, torch.zeros_like(weight), torch.zeros_like(weight)
    tile = row_tile(columns, whole=True)
    rows_each = rows_of_a_chunk(rows, tile.rows)
    sums = _floats(dout, 2, -(-rows // rows_each), columns)
    _launch(
        "layer_norm",
        "layer_norm_backward",
        sums.shape[1],
        dout=dout,
        **{
            name: None if tensor is None else tensor.contiguous()
            for name, tensor in (("dtotal", dtotal), ("x", x), ("residual", residual), ("total", total))
        },
        weight=weight.contiguous(),
        mean=statistics[0],
        rstd=statistics[1],
        dx=dx,
        dresidual=dresidual,
        dweight=sums[0],
        dbias=sums[1],
        rows=rows,
        columns=columns,
        rows_each=rows_each,
        **_dropout(rng, site, threshold),
        **_tile(tile),
    )
    return dx, dresidual, sums[0].sum(0), sums[1].sum(0)


def cross_entropy_forward(logits: Tensor, targets: Tensor, ignore_index: int, reduction: str) -> tuple[Tensor, Tensor]:
    """The loss, and (2, rows) float32: the largest logit and the logarithm of the sum of exp(logit - largest)."""
    logits = logits.contiguous()
    rows, classes = logits.shape
    losses, statistics = _floats(logits, rows), _floats(logits, 2, rows)
    if rows:
        block, num_warps = class_block(classes)
        _launch(
            "cross_entropy",
            "cross_entropy_forward",
            rows,
            logits=logits,
            targets=targets.contiguous(),
            losses=losses,
            largest=statistics[0],
            log_rest=statistics[1],
            classes=classes,
            ignore_index=ignore_index,
            block=block,
            num_warps=num_warps,
        )
    return losses.sum() if reduction == "sum" else losses, statistics


def cross_entropy_backward(
    gradient: Tensor, logits: Tensor, targets: Tensor, statistics: Tensor, ignore_index: int, reduction: str
) -> Tensor:
    """dlogits, of a gradient that is 0-dim or (rows,) as the reduction has it."""
    logits, statistics = logits.contiguous(), statistics.contiguous()
    rows, classes = logits.shape
    dlogits = torch.empty_like(logits)
    if rows:
        block, num_warps = class_block(classes)
        _launch(
            "cross_entropy",
            "cross_entropy_backward",
            rows,
            dlosses=gradient.contiguous(),
            dlosses_stride=0 if reduction == "sum" else 1,
            logits=logits,
            targets=targets.contiguous(),
            largest=statistics[0],
            log_rest=statistics[1],
            dlogits=dlogits,
            classes=classes,
            ignore_index=ignore_index,
            block=block,
            num_warps=num_warps,
        )
    return dlogits


def _mapped(file: str, kernel: str, x: Tensor, **arguments: Any) -> Tensor:
    """A tensor like x that a kernel computes from it, a tile a program."""
    x = x.contiguous()
    out = torch.empty_like(x)
    if out.numel():
        rows, columns = x.shape
        tile = row_tile(columns, whole=False)
        programs = -(-rows // tile.rows) * -(-columns // tile.columns)
        _launch(file, kernel, programs, x=x, out=out, rows=rows, columns=columns, **arguments, **_tile(tile))
    return out


def _floats(like: Tensor, *shape: int) -> Tensor:
    # Spelled out: torch's default dtype and device are the user's to change, and the kernels write float32.
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def _dropout(rng: Tensor | None, site: int, threshold: int) -> dict[str, Any]:
    return {
        "rng": rng.contiguous() if threshold and rng is not None else None,
        "site": site,
        "threshold": threshold,
        "survivor_scale": philox.survivor_scale(threshold),
    }


def _tile(tile: RowTile) -> dict[str, int]:
    return {"block_rows": tile.rows, "block_columns": tile.columns, "num_warps": tile.num_warps}


def _launch(file: str, kernel: str, programs: int, **arguments: Any) -> None:
    """So many programs, on the GPU that the tensors lie on."""
    device = next(x.device for x in arguments.values() if isinstance(x, Tensor))
    with triton_runtime.current(device):
        getattr(triton_runtime.module(file), kernel)[(programs,)](**arguments, enable_fp_fusion=contracts(file))
