"""What every run does first: claim its output directory, find its devices and processes, seed the generators."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator

from fastbert.data import Examples
from fastbert.training.checkpoint import list_checkpoints
from fastbert.training.config import TrainingConfig
from fastbert.training.recorder import METRICS_FILE
from fastbert.training.stream import epoch_windows


def launch(config: TrainingConfig) -> Accelerator:
    """The accelerator of a new run, with everything drawn at random from ``config.seed`` on.

    Raises:
        ValueError: ``output`` holds a run already and ``resume`` is off.
    """
    output = Path(config.output)
    if not config.resume and (list_checkpoints(output / "checkpoints") or (output / METRICS_FILE).exists()):
        raise ValueError(f"output {output} already holds a run: continue it with resume, or choose another output")
    # Precision, accumulation and sharding are the training loop's own; accelerate brings devices and processes.
    accelerator = Accelerator(
        mixed_precision="no", log_with=None if config.log_to == "none" else config.log_to, project_dir=output
    )
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


def evaluation_interval(config: TrainingConfig, total_steps: int, steps_per_epoch: int) -> int:
    """Steps between evaluations: as asked, else an epoch, else a tenth of the run."""
    if config.eval_every is not None:
        return config.eval_every
    return steps_per_epoch if config.epochs is not None else max(1, total_steps // 10)
