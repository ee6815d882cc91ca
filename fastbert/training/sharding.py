"""FSDP2: weights, gradients and moments lie in parts on the processes (Rajbhandari et al. 2020, ZeRO stage 3).

accelerate's configuration asks for it (``fsdp_version: 2``), and torch's ``fully_shard`` does it: a block's weights are
gathered when it runs and dropped after. What the loop reads or writes as a whole (checkpoints, the saved model) is
gathered here, by all processes together.

torch.distributed.fsdp and .tensor take a second to import, which only runs that shard should wait: what they have made
is known by its methods here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin, parse_flag_from_env
from torch import Tensor, nn

from fastbert.models import PretrainedModel, architecture


def sharding_wanted() -> FullyShardedDataParallelPlugin | None:
    """What accelerate's configuration says of FSDP, None where it does not ask for it.

    Raises:
        ValueError: FSDP's first version, or a part of it that the training loop has its own setting for.
    """
    # Read here and not from the accelerator, which leaves FSDP out without a word on CPUs.
    if not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return None
    from torch.distributed.fsdp import CPUOffloadPolicy

    plugin = FullyShardedDataParallelPlugin()
    if plugin.fsdp_version != 2:
        raise ValueError(f"accelerate is set to FSDP with fsdp_version {plugin.fsdp_version}; allowed: 2")
    if isinstance(plugin.cpu_offload, CPUOffloadPolicy):
        raise ValueError("accelerate is set to FSDP with fsdp_offload_params; allowed: false")
    if plugin.activation_checkpointing:
        raise ValueError("accelerate is set to fsdp_activation_checkpointing; allowed: gradient_checkpointing instead")
    return plugin


def shard(model: PretrainedModel, plugin: FullyShardedDataParallelPlugin, accelerator: Accelerator) -> None:
    """Leave this process its part of every weight. The parameters are new ones: make the optimizer afterwards."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for module in (*model.transformer.blocks, model):
        fully_shard(module, mesh=mesh, reshard_after_forward=bool(plugin.reshard_after_forward))
    register_fsdp_forward_method(model, "loss_terms")


@contextlib.contextmanager
def gradients_kept(model: PretrainedModel) -> Iterator[None]:
    """Add gradients up on this process without a word to the others."""
    sharded: Any = model
    sharded.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        sharded.set_requires_gradient_sync(True)


def reshard(model: PretrainedModel) -> None:
    """Drop the weights of the others that a forward without a backward leaves behind."""
    modules: Iterable[Any] = model.modules()
    for module in modules:
        if _is_sharded(module):
            module.reshard()


def whole(value: Any) -> Tensor:
    """A tensor, or all of a sharded one. All processes must ask for it."""
    gathered: Tensor = value.full_tensor() if _in_parts(value) else value
    return gathered


def whole_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors, and all of each sharded one on the CPU, so that a GPU holds one whole at a time. See :func:`whole`."""
    return {name: whole(value).cpu() if _in_parts(value) else value for name, value in tensors.items()}


def whole_model(model: PretrainedModel) -> PretrainedModel:
    """A model, or a copy with all of a sharded one's weights, on the CPU. All processes must ask for it."""
    if not _is_sharded(model):
        return model
    with torch.device("meta"):
        copy = architecture(model.config.family, model.purpose)(model.config)  # its own class has become FSDP's
    copy.load_state_dict(whole_tensors(model.state_dict()), assign=True)
    return copy.eval()


def part_like(value: Tensor, like: Any) -> Tensor:
    """A tensor where another one lies, and sharded as that is."""
    if not _in_parts(like):
        return value.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def _in_parts(value: Tensor) -> bool:
    return hasattr(value, "full_tensor")


def _is_sharded(module: nn.Module) -> bool:
    return hasattr(module, "set_requires_gradient_sync")
