"""What a forward returns: an ordered mapping that also reads by attribute and by position."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch.utils import _pytree as pytree

FIELDS = (
    "loss",
    "logits",
    "prediction_logits",
    "seq_relationship_logits",
    "start_logits",
    "end_logits",
    "last_hidden_state",
    "pooler_output",
    "sentence_embedding",
    "past_key_values",
    "hidden_states",
    "attentions",
)


class ModelOutput(dict[str, Any]):
    """Named results under Hugging Face's field names, in their order; what was not computed is left out.

    ``output.logits``, ``output["logits"]`` and ``output[1]`` read the same value; ``output[:2]`` and
    :meth:`to_tuple` give tuples to unpack. A field that was not computed reads as None by attribute, and iteration
    runs over the names, as it does for any mapping.
    """

    def __init__(self, values: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), /, **fields: Any) -> None:
        super().__init__({name: value for name, value in dict(values, **fields).items() if value is not None})

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return dict.__getitem__(self, name)
        if name in FIELDS:
            return None
        raise AttributeError(f"this output has no {name!r}; it has {', '.join(self)}")

    def __getitem__(self, key: str | int | slice) -> Any:
        return dict.__getitem__(self, key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Any, ...]:
        """The values alone, in order."""
        return tuple(self.values())


def _values_and_names(output: ModelOutput) -> tuple[list[Any], list[str]]:
    return list(output.values()), list(output)


def _from_values(values: Iterable[Any], names: Iterable[str]) -> ModelOutput:
    return ModelOutput(zip(names, values, strict=True))


# So that torch.export can return one, DDP finds the tensors in one, and vmap passes through one.
pytree.register_pytree_node(
    ModelOutput,
    _values_and_names,
    _from_values,
    serialized_type_name=f"{ModelOutput.__module__}.{ModelOutput.__qualname__}",
    flatten_with_keys_fn=lambda output: ([(pytree.MappingKey(name), output[name]) for name in output], list(output)),
)
