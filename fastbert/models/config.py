"""What a model is made of: one configuration class, the families it describes, and Hugging Face's spelling of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BERT_FAMILIES = ("bert",)
GPT_FAMILIES = ("openai-gpt", "gpt2")
FAMILIES = (*BERT_FAMILIES, *GPT_FAMILIES)
ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu")  # "gelu" is erf's, "gelu_new" the tanh approximation
_COUNTS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "num_labels",
)
POOLINGS = ("mean", "cls", "last")
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


@dataclass
class TransformerConfig:
    """The sizes, the probabilities and the family of a model.

    The family fixes the architecture and nothing else does: ``bert`` sees both sides and normalises after each
    residual sum, ``openai-gpt`` sees only what came before and normalises after, ``gpt2`` sees only what came before
    and normalises before each sublayer and once more at the end.

    Attributes:
        family: "bert", "openai-gpt" or "gpt2".
        vocab_size: number of token ids.
        hidden_size: width of a token's vector, a multiple of ``num_attention_heads``.
        num_hidden_layers: number of blocks.
        num_attention_heads: heads of each block; ``hidden_size / num_attention_heads`` is at most 256.
        intermediate_size: width of the MLP; 0 stands for 4 x ``hidden_size``.
        hidden_act: "gelu" (erf), "gelu_new" (tanh), "relu" or "silu".
        max_position_embeddings: longest sequence, in tokens.
        type_vocab_size: number of segments; 0 where there is no segment table (GPT).
        layer_norm_eps: added to the variance.
        initializer_range: standard deviation of new weights.
        embedding_dropout_prob: on the sum of the embeddings.
        hidden_dropout_prob: on what each sublayer adds to the residual stream.
        attention_probs_dropout_prob: on the attention weights.
        classifier_dropout: before a task's linear layer; None is ``hidden_dropout_prob`` for BERT, 0 for GPT.
        classifier_bias: whether GPT's sequence-level heads have a bias (Hugging Face's do not, the paper's do).
        num_labels: width of a classification head; 1 is regression.
        id2label, label2id: names of the labels; each is made from the other where only one is given.
        pooling: what stands for a sequence in sentence embeddings: the "mean" of its tokens, the "cls" (first) or the
            "last" of them.
        problem_type: None decides from ``num_labels`` and the labels' dtype, as Hugging Face does.
        pad_token_id, bos_token_id, eos_token_id: kept for tokenisers and generation; no computation depends on them.
    """

    family: str = "bert"
    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 0
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    embedding_dropout_prob: float = 0.1
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    classifier_bias: bool = False
    num_labels: int = 2
    id2label: dict[int, str] | None = None
    label2id: dict[str, int] | None = None
    pooling: str = "mean"
    problem_type: str | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        self.intermediate_size = self.intermediate_size or 4 * self.hidden_size
        self._check_sizes()
        self._check_probabilities()
        self._check_choices()
        self._name_labels()

    @property
    def causal(self) -> bool:
        """Whether a token sees only itself and what came before it."""
        return self.family in GPT_FAMILIES

    @property
    def pre_norm(self) -> bool:
        """Whether LayerNorm comes before a sublayer, rather than after its residual sum."""
        return self.family == "gpt2"

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def classifier_dropout_prob(self) -> float:
        """``classifier_dropout`` with its default filled in."""
        if self.classifier_dropout is not None:
            return self.classifier_dropout
        return 0.0 if self.causal else self.hidden_dropout_prob

    def replace(self, **overrides: Any) -> TransformerConfig:
        """A copy with some fields changed.

        Label names that no longer fit a new ``num_labels`` are dropped, and a new set of names sets ``num_labels``.
        """
        known = {field.name for field in dataclasses.fields(self)}
        if unknown := sorted(set(overrides) - known):
            raise ValueError(
                f"{type(self).__name__} has no field {', '.join(unknown)}; it has {', '.join(sorted(known))}"
            )
        values = {**dataclasses.asdict(self), **overrides}
        if "id2label" in overrides or "label2id" in overrides:
            values.update({"id2label": None, "label2id": None}, **overrides)
            names = overrides.get("id2label") or overrides.get("label2id")
            values["num_labels"] = overrides.get("num_labels", len(names) if names else self.num_labels)
        elif values["num_labels"] != self.num_labels:
            values.update(id2label=None, label2id=None)
        if "hidden_size" in overrides and "intermediate_size" not in overrides:
            ratio_was_default = self.intermediate_size == 4 * self.hidden_size
            values["intermediate_size"] = 0 if ratio_was_default else self.intermediate_size
        return type(self)(**values)

    def to_dict(self) -> dict[str, Any]:
        """Hugging Face's configuration dictionary of this model, under the key names of its family."""
        values = {theirs: getattr(self, ours) for ours, theirs in _KEYS[self.family].items()}
        values.update({key: getattr(self, key) for key in _COMMON_KEYS if getattr(self, key) is not None})
        if self.family == "openai-gpt":
            values["afn"] = "gelu" if self.hidden_act == "gelu_new" else self.hidden_act
        if self.family == "bert" and self.embedding_dropout_prob != self.hidden_dropout_prob:
            values["embedding_dropout_prob"] = self.embedding_dropout_prob  # a key of ours, which others ignore
        if self.classifier_bias:
            values["classifier_bias"] = True  # likewise
        if self.pooling != "mean":
            values["pooling"] = self.pooling  # likewise
        if self.id2label is not None:
            values["id2label"] = {str(index): name for index, name in self.id2label.items()}
            values["label2id"] = dict(self.label2id or {})
        elif self.num_labels != 2:
            values["id2label"] = {str(index): f"LABEL_{index}" for index in range(self.num_labels)}
            values["label2id"] = {f"LABEL_{index}": index for index in range(self.num_labels)}
        return {"model_type": self.family, "tie_word_embeddings": True, **values}

    def to_json_string(self) -> str:
        """:meth:`to_dict` as the text of a ``config.json``."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> TransformerConfig:
        """From Hugging Face's configuration dictionary.

        Keys that change nothing in what these classes compute are ignored. ValueError for a family that is not
        there and for a key that asks for other mathematics.
        """
        family = values.get("model_type")
        if family not in _KEYS:
            raise ValueError(f"model_type must be one of {', '.join(FAMILIES)}, got {family!r}")
        for key, supported in _ONLY_SUPPORTED.items():
            if key in values and values[key] != supported and not (values[key] is None and not supported):
                raise ValueError(f"{key}={values[key]!r} is not supported, only {supported!r}")
        fields = {ours: values[theirs] for ours, theirs in _KEYS[family].items() if values.get(theirs) is not None}
        fields.update({key: values[key] for key in _COMMON_KEYS if key in values})
        if "hidden_act" in fields:
            aliases = {**_ACTIVATION_ALIASES, **(_GPT1_ACTIVATIONS if family == "openai-gpt" else {})}
            fields["hidden_act"] = aliases.get(fields["hidden_act"], fields["hidden_act"])
        if family == "bert":
            fields["embedding_dropout_prob"] = values.get(
                "embedding_dropout_prob", values.get("hidden_dropout_prob", 0.1)
            )
        if isinstance(fields.get("eos_token_id"), list):
            fields["eos_token_id"] = fields["eos_token_id"][0]  # several end tokens: the first is the canonical one
        fields["classifier_bias"] = bool(values.get("classifier_bias", False))
        fields["pooling"] = values.get("pooling", "mean")
        if values.get("id2label"):
            fields["id2label"] = {int(index): name for index, name in values["id2label"].items()}
        fields["num_labels"] = len(fields["id2label"]) if "id2label" in fields else values.get("num_labels", 2)
        if family == "bert":
            return BertConfig(**fields)
        return GPTConfig(**{**(GPT2_FIELDS if family == "gpt2" else {}), **fields})

    def _check_sizes(self) -> None:
        for name in _COUNTS:
            _require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        _require("type_vocab_size", self.type_vocab_size, self.type_vocab_size >= 0, "at least 0")
        _require("layer_norm_eps", self.layer_norm_eps, self.layer_norm_eps > 0, "above 0")
        _require("initializer_range", self.initializer_range, self.initializer_range >= 0, "at least 0")
        if self.hidden_size % self.num_attention_heads != 0:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.head_dim > 256:
            raise ValueError(f"hidden_size / num_attention_heads must be at most 256, got {self.head_dim}")

    def _check_probabilities(self) -> None:
        for name in ("embedding_dropout_prob", "hidden_dropout_prob", "attention_probs_dropout_prob"):
            _require(name, getattr(self, name), 0.0 <= getattr(self, name) <= 1.0, "between 0 and 1")
        if self.classifier_dropout is not None:
            _require(
                "classifier_dropout", self.classifier_dropout, 0.0 <= self.classifier_dropout <= 1.0, "between 0 and 1"
            )

    def _check_choices(self) -> None:
        _require("family", self.family, self.family in FAMILIES, f"one of {', '.join(FAMILIES)}")
        _require("hidden_act", self.hidden_act, self.hidden_act in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}")
        _require("pooling", self.pooling, self.pooling in POOLINGS, f"one of {', '.join(POOLINGS)}")
        if self.problem_type is not None:
            allowed = f"None or one of {', '.join(PROBLEM_TYPES)}"
            _require("problem_type", self.problem_type, self.problem_type in PROBLEM_TYPES, allowed)
        if self.causal and self.type_vocab_size:
            raise ValueError(
                f"type_vocab_size must be 0 for {self.family}, which has no segments, got {self.type_vocab_size}"
            )
        if self.family == "openai-gpt":
            # Its format has no key for the MLP's width, and its "gelu" is the tanh one.
            width = 4 * self.hidden_size
            _require(
                "intermediate_size", self.intermediate_size, self.intermediate_size == width, f"{width} for openai-gpt"
            )
            _require("hidden_act", self.hidden_act, self.hidden_act != "gelu", "gelu_new, relu or silu for openai-gpt")

    def _name_labels(self) -> None:
        if self.id2label is None and self.label2id is not None:
            self.id2label = {index: name for name, index in self.label2id.items()}
        if self.id2label is None:
            return
        self.id2label = {
            int(index): str(name) for index, name in sorted(self.id2label.items(), key=lambda x: int(x[0]))
        }
        if list(self.id2label) != list(range(self.num_labels)):
            raise ValueError(f"id2label must name the labels 0 to {self.num_labels - 1}, got {sorted(self.id2label)}")
        inverse = {name: index for index, name in self.id2label.items()}
        if len(inverse) != self.num_labels:
            raise ValueError(f"id2label must give every label its own name, got {list(self.id2label.values())}")
        if self.label2id is not None and dict(self.label2id) != inverse:
            raise ValueError(f"label2id must be the inverse of id2label {self.id2label}, got {self.label2id}")
        self.label2id = inverse


@dataclass
class BertConfig(TransformerConfig):
    """bert-base (Devlin et al. 2018), with the epsilon and the erf GELU of Hugging Face's port."""

    pad_token_id: int | None = 0


@dataclass
class GPTConfig(TransformerConfig):
    """GPT-1 (Radford et al. 2018)."""

    family: str = "openai-gpt"
    vocab_size: int = 40478
    hidden_act: str = "gelu_new"
    type_vocab_size: int = 0
    layer_norm_eps: float = 1e-5


GPT2_FIELDS: dict[str, Any] = {  # where gpt2 (Radford et al. 2019) differs from GPTConfig()
    "family": "gpt2",
    "vocab_size": 50257,
    "max_position_embeddings": 1024,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
}

_BERT_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "hidden_act": "hidden_act",
    "max_position_embeddings": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "layer_norm_eps": "layer_norm_eps",
    "hidden_dropout_prob": "hidden_dropout_prob",
    "attention_probs_dropout_prob": "attention_probs_dropout_prob",
}
_GPT1_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "hidden_act": "afn",
    "max_position_embeddings": "n_positions",
    "layer_norm_eps": "layer_norm_epsilon",
    "embedding_dropout_prob": "embd_pdrop",
    "hidden_dropout_prob": "resid_pdrop",
    "attention_probs_dropout_prob": "attn_pdrop",
}
_GPT2_KEYS = {**_GPT1_KEYS, "hidden_act": "activation_function", "intermediate_size": "n_inner"}
_KEYS = {"bert": _BERT_KEYS, "openai-gpt": _GPT1_KEYS, "gpt2": _GPT2_KEYS}  # our field -> Hugging Face's key
_COMMON_KEYS = (
    "initializer_range",
    "classifier_dropout",
    "problem_type",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
_GPT1_ACTIVATIONS = {"gelu": "gelu_new", "swish": "silu"}  # afn's spelling -> ours
_ACTIVATION_ALIASES = {"gelu_pytorch_tanh": "gelu_new", "gelu_fast": "gelu_new", "gelu_python": "gelu", "swish": "silu"}
_ONLY_SUPPORTED: dict[str, Any] = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "pruned_heads": {},
}


def _require(name: str, value: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
