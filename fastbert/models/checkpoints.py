"""Reading and writing checkpoints in Hugging Face's format: config.json and model.safetensors.

Weights come from safetensors, in one file or in shards. A ``pytorch_model.bin`` is read where there is nothing else,
and only as plain tensors: nothing in it is executed.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import safetensors.torch
import torch
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor, nn

from fastbert.files import files_replaced
from fastbert.hub import hub_failure
from fastbert.models import naming
from fastbert.models.config import TransformerConfig

if TYPE_CHECKING:
    from fastbert.models.base import PretrainedModel

logger = logging.getLogger(__name__)

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_WEIGHT_FILES = (WEIGHTS, f"{WEIGHTS}.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of one checkpoint on this machine."""

    config: Path
    weights: tuple[Path, ...]


def locate(path: str | os.PathLike[str], revision: str | None = None) -> CheckpointFiles:
    """Find a checkpoint's files: ``path`` is a directory, else the id of a hub repository, which is downloaded.

    Raises:
        FileNotFoundError: neither is there, or it lacks config.json or the weights.
    """
    directory = Path(path)
    config = _fetch(directory, str(path), CONFIG, revision)
    if config is None:
        raise FileNotFoundError(f"{path} has no {CONFIG}")
    for name in _WEIGHT_FILES:
        found = _fetch(directory, str(path), name, revision)
        if found is None:
            continue
        if not name.endswith(".index.json"):
            return CheckpointFiles(config, (found,))
        shards = sorted(set(json.loads(found.read_text(encoding="utf-8"))["weight_map"].values()))
        located = [_fetch(directory, str(path), shard, revision) for shard in shards]
        if lost := [shard for shard, place in zip(shards, located, strict=True) if place is None]:
            raise FileNotFoundError(f"{path} lacks the shards {', '.join(lost)} that {name} lists")
        return CheckpointFiles(config, tuple(place for place in located if place is not None))
    raise FileNotFoundError(f"{path} has no weights: none of {', '.join(_WEIGHT_FILES)}")


def read_config(path: str | os.PathLike[str]) -> TransformerConfig:
    """The configuration in a config.json, or in the directory that holds one."""
    file = Path(path)
    file = file / CONFIG if file.is_dir() else file
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    try:
        return TransformerConfig.from_dict(values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: {error}") from error


def fill_weights(
    model: PretrainedModel, files: CheckpointFiles, *, ignore_mismatched_sizes: bool = False, require_head: bool = False
) -> None:
    """Give a model on the meta device a checkpoint's weights, as float32.

    What is missing of the heads is initialised, and what the model has no use for is left out, each with a log record
    that lists the names: a warning, but at level INFO for another head's weights. ValueError, naming them all, for
    weights of the transformer that are missing and for any of the wrong shape; with ``ignore_mismatched_sizes``
    those of the heads are initialised too.
    """
    source = files.weights[0].parent
    family = model.config.family
    stored = naming.canonical(_read(files.weights), family)
    places = {name: naming.layout(name, family, model.purpose) for name, _ in model.named_parameters()}
    weights: dict[str, Tensor] = {}
    missing: list[str] = []
    replaced: list[str] = []
    mismatched: list[str] = []
    for name, parameter in model.named_parameters():
        value = naming.from_hugging_face(places[name], stored)
        is_head = not name.startswith("transformer.")
        if value is not None and value.shape == parameter.shape:
            weights[name] = value.to(torch.float32).clone(memory_format=torch.contiguous_format)
        elif value is None:
            missing.append(name)
        elif is_head and ignore_mismatched_sizes:
            replaced.append(name)
        else:
            theirs = _their_names([name], places)
            mismatched.append(f"{theirs} is {tuple(value.shape)}, the model has {tuple(parameter.shape)}")
    if mismatched:
        raise ValueError(f"{source}: weights of the wrong shape: {'; '.join(mismatched)}")
    if lost := [name for name in missing if require_head or name.startswith("transformer.")]:
        raise ValueError(f"{source}: weights missing: {_their_names(lost, places)}")

    _initialise(model, missing + replaced)
    model.load_state_dict(weights, strict=False, assign=True)

    for why, names in (("not in the checkpoint", missing), ("of another shape in the checkpoint", replaced)):
        if names:
            new = _their_names(names, places)
            logger.warning("%s: %s, newly initialised, to be trained before use: %s", source, why, new)
    used = {theirs for place in places.values() for theirs in place.names}
    unused = sorted(set(stored) - used)
    for level, is_head in ((logging.INFO, True), (logging.WARNING, False)):  # another head's may be there
        if left_out := [name for name in unused if naming.belongs_to_head(name) == is_head]:
            listed = ", ".join(left_out)
            logger.log(level, "%s: weights that %s does not use: %s", source, type(model).__name__, listed)


def _initialise(model: PretrainedModel, names: Iterable[str]) -> None:
    """Give parameters on the meta device, and those beside them, the values that training starts from."""
    for owner in sorted({name.rpartition(".")[0] for name in names}):
        module = model.get_submodule(owner)
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape)))
        model.initialise(owner)


def save(model: PretrainedModel, directory: str | os.PathLike[str]) -> None:
    """Write config.json and model.safetensors, both complete before either is put in place."""
    family = model.config.family
    prefix = "" if model.purpose == "model" else naming.PREFIX[family]
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        place = naming.layout(name, family, model.purpose)
        tensors.update(naming.to_hugging_face(parameter.detach().cpu(), place, prefix))
    values = {
        **model.config.to_dict(),
        "architectures": [naming.hugging_face_class(type(model).__name__, family)],
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"

    with files_replaced(Path(directory)) as aside:
        (aside / CONFIG).write_text(text, encoding="utf-8")
        write_tensors(tensors, aside / WEIGHTS)


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file. OSError where that fails, a full disk included."""
    try:
        safetensors.torch.save_file(tensors, str(path), metadata={"format": "pt"})
    except safetensors.SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error


def _fetch(directory: Path, repository: str, name: str, revision: str | None) -> Path | None:
    """One file of a checkpoint, or None where a checkpoint that exists does not have it."""
    if directory.is_dir():
        return directory / name if (directory / name).is_file() else None
    if directory.is_absolute() or repository.startswith((".", "~")) or directory.exists():
        raise FileNotFoundError(f"{repository} is not a directory")
    try:
        return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))
    except HFValidationError as error:
        raise FileNotFoundError(f"{repository} is neither a directory nor the id of a hub repository") from error
    except Exception as error:  # The hub's client raises its own, its HTTP library's and the system's errors.
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        raise FileNotFoundError(f"{repository} is not a directory, and {hub_failure(error)}") from error


def _read(paths: Iterable[Path]) -> dict[str, Tensor]:
    tensors: dict[str, Any] = {}
    for path in paths:
        try:
            if path.suffix == ".safetensors":
                tensors.update(safetensors.torch.load_file(str(path)))
            else:
                tensors.update(torch.load(path, map_location="cpu", weights_only=True))
        except (safetensors.SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(f"{path} cannot be read as weights: {str(error).splitlines()[0]}") from error
    if odd := sorted(name for name, value in tensors.items() if not isinstance(value, Tensor)):
        raise ValueError(f"{next(iter(paths))} holds things that are not tensors: {', '.join(odd[:5])}")
    return tensors


def _their_names(names: Iterable[str], places: dict[str, naming.Layout]) -> str:
    return ", ".join(theirs for name in names for theirs in places[name].names)
