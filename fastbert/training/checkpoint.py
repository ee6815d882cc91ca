"""Checkpoints: safetensors and JSON, written aside and renamed, verified before use, old ones rotated.

``output/checkpoints/step-00000200/`` holds the model as ``save_pretrained`` writes it, ``state.safetensors`` (optimizer
moments and random generator states) and ``state.json`` (counters, the configuration, and the SHA-256 of every other
file and of its own content). Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fastbert.files import sha256_of, written_aside
from fastbert.models.checkpoints import write_tensors
from fastbert.training.sharding import part_like

logger = logging.getLogger(__name__)

_STATE, _TENSORS = "state.json", "state.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: its directory, its counters and its tensors (on the CPU)."""

    directory: Path
    state: dict[str, Any]
    tensors: dict[str, Tensor]


def save_checkpoint(
    root: Path,
    step: int,
    *,
    save_model: Callable[[Path], None],
    tensors: dict[str, Tensor],
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Save under ``root``, then remove all but the ``keep`` newest."""
    directory = root / f"step-{step:08d}"
    with written_aside(directory) as aside:
        save_model(aside)
        write_tensors({name: value.detach().contiguous().cpu() for name, value in tensors.items()}, aside / _TENSORS)
        checksums = {path.name: sha256_of(path) for path in sorted(aside.iterdir())}
        content = {**state, "sha256": checksums}
        content = {**content, "own_sha256": _digest(content)}
        (aside / _STATE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for old in list_checkpoints(root)[keep:]:
        shutil.rmtree(old)
    return directory


def list_checkpoints(root: Path) -> list[Path]:
    """Directories of checkpoints, newest first."""
    return sorted(root.glob("step-*"), reverse=True) if root.is_dir() else []


def load_latest(root: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, None where there is none at all.

    A damaged one is named in a warning and put out of the way, and the one before it is used.

    Raises:
        ValueError: there are checkpoints, but none of them is whole.
    """
    damaged: list[str] = []
    for directory in list_checkpoints(root):
        try:
            return _load(directory)
        except (OSError, ValueError, SafetensorError) as error:
            kept = directory.with_name(f"damaged-{directory.name}")
            logger.warning("checkpoint %s is damaged (%s): it is now %s", directory, error, kept.name)
            shutil.rmtree(kept, ignore_errors=True)
            os.replace(directory, kept)
            damaged.append(kept.name)
    if damaged:
        raise ValueError(f"no checkpoint in {root} is whole ({', '.join(damaged)}): start again in another output")
    return None


def _load(directory: Path) -> Checkpoint:
    state = json.loads((directory / _STATE).read_text(encoding="utf-8"))
    if not isinstance(state, dict) or not isinstance(state.get("sha256"), dict):
        raise ValueError(f"{_STATE} has no checksums")
    if state.pop("own_sha256", None) != _digest(state):
        raise ValueError(f"{_STATE} does not match its own checksum")
    for name, expected in state.pop("sha256").items():
        if sha256_of(directory / name) != expected:
            raise ValueError(f"{name} does not match its checksum")
    return Checkpoint(directory, state, load_file(directory / _TENSORS))


def _digest(content: dict[str, Any]) -> str:
    """Of what JSON keeps of it, however it is spaced."""
    kept = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode("utf-8")).hexdigest()


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state under the names of the model's parameters: ``optimizer.<parameter>.<moment>``."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"optimizer.{names[parameter]}.{key}": value
        for parameter, entries in optimizer.state.items()
        for key, value in entries.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` saved, each tensor where its parameter lives."""
    moments: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            owner, _, key = name.removeprefix("optimizer.").rpartition(".")
            moments.setdefault(owner, {})[key] = tensor
    parameters = dict(model.named_parameters())
    for name, entries in moments.items():
        parameter = parameters[name]
        optimizer.state[parameter] = {  # a moment lies as its parameter does, a step counter beside it
            key: part_like(value, parameter) if value.shape == parameter.shape else value.to(parameter.device)
            for key, value in entries.items()
        }


def generator_tensors(rank: int) -> dict[str, Tensor]:
    """The states of torch's random generators in this process."""
    states = {f"generator.cpu.{rank}": torch.get_rng_state()}
    if torch.cuda.is_available():
        states[f"generator.cuda.{rank}"] = torch.cuda.get_rng_state()
    return states


def restore_generators(tensors: dict[str, Tensor], rank: int) -> None:
    """Put back this process's generators."""
    torch.set_rng_state(tensors[f"generator.cpu.{rank}"])
    cuda = tensors.get(f"generator.cuda.{rank}")
    if cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)
