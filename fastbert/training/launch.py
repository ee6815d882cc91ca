"""What every run does first: claim its output directory, find its devices and processes, seed the generators."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from fastbert.data import Examples
from fastbert.training.checkpoint import list_checkpoints
from fastbert.training.config import TrainingConfig
from fastbert.training.sharding import sharding_wanted
from fastbert.training.stream import epoch_windows

_SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)


def launch(config: TrainingConfig) -> Accelerator:
    """The accelerator of a new run, with everything drawn at random from ``config.seed`` on.

    Raises:
        ValueError: ``output`` holds a run already and ``resume`` is off, or accelerate is set to something that the
            loop does not do.
    """
    output = Path(config.output)
    if not config.resume and (list_checkpoints(output / "checkpoints") or (output / "model.safetensors").exists()):
        raise ValueError(f"output {output} already holds a run: continue it with resume, or choose another output")
    # Precision, accumulation and sharding are the training loop's own; accelerate brings devices and processes.
    accelerator = Accelerator(
        mixed_precision="no", log_with=None if config.log_to == "none" else config.log_to, project_dir=output
    )
    if accelerator.distributed_type not in _SUPPORTED:
        raise ValueError(
            f"accelerate is set to {accelerator.distributed_type.value}; allowed: one process, DDP or FSDP2"
        )
    if sharding_wanted() is not None:
        if config.compile:
            raise ValueError("compile is True and accelerate is set to FSDP; allowed: one of the two")
        if accelerator.num_processes == 1:
            raise ValueError("accelerate is set to FSDP and there is one process; allowed: two or more")
    torch.manual_seed(config.seed)
    return accelerator


def count_steps(config: TrainingConfig, examples: Examples, num_processes: int) -> int:
    """Optimizer steps of the first epoch."""
    view = examples.epoch(0)
    micro_batches = config.gradient_accumulation * num_processes
    windows = epoch_windows(
        view, tokens_per_batch=config.tokens_per_batch, micro_batches=micro_batches, seed=config.seed, epoch=0
    )
    return len(windows)


def planned_steps(config: TrainingConfig, steps_per_epoch: int) -> int:
    """Optimizer steps of the run."""
    if config.steps is not None:
        return config.steps
    assert config.epochs is not None, "either steps or epochs is set"
    return max(1, round(config.epochs * steps_per_epoch))
