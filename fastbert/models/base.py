"""The base class of every model: one transformer, the rules of a forward, and loading, saving and settings."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from fastbert.models import checkpoints
from fastbert.models.cache import KeyValueCache
from fastbert.models.config import TransformerConfig
from fastbert.models.heads import VocabularyHead
from fastbert.models.inputs import ModelInputs
from fastbert.models.losses import LossTerm, next_token_targets, per_sequence_term, target_rows
from fastbert.models.transformer import Attention, Transformer
from fastbert.ops import draw_rng
from fastbert.packing import PackedBatch, sequence_index

Model = TypeVar("Model", bound="PretrainedModel")


@dataclass(frozen=True)
class Encoded:
    """What a head works on: (total, hidden) vectors, all layers' where asked for, and this forward's dropout."""

    hidden: Tensor
    states: tuple[Tensor, ...] | None
    rng: Tensor | None


class PretrainedModel(nn.Module):
    """A transformer and, in the subclasses, what stands on top.

    ``forward`` takes Hugging Face's keywords with padded (batch, seq) tensors, or one PackedBatch as its only
    argument. A padded call is answered padded, with zeros in the padding; a packed one is answered packed.

    Class attributes:
        families: the configurations this class is made for.
        purpose: its name in :func:`fastbert.models.architecture`.
    """

    families: ClassVar[tuple[str, ...]]
    purpose: ClassVar[str]

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        if config.family not in self.families:
            allowed = " or ".join(self.families)
            raise ValueError(f"{type(self).__name__} needs a configuration of family {allowed}, got {config.family}")
        self.config = config.replace()  # a copy: resizing the vocabulary of one model must not reach another's
        self.transformer = Transformer(config)

    def initialise(self, prefix: str = "") -> None:
        """Fresh weights for the modules under ``prefix``: N(0, initializer_range), biases 0, norms 1.

        In gpt2 the layers that write to the residual stream get a deviation smaller by sqrt(2 x layers), so that its
        variance does not grow with depth (Radford et al. 2019, section 2.3).
        """
        std = self.config.initializer_range
        residual = std / math.sqrt(2 * self.config.num_hidden_layers) if self.config.pre_norm else std
        for name, module in self.named_modules():
            if not name.startswith(prefix):
                continue
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=residual if name.endswith(("attention.output", "mlp.down")) else std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=std)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, VocabularyHead) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def encode(
        self, inputs: ModelInputs, *, cache: KeyValueCache | None = None, output_hidden_states: bool | None = None
    ) -> Encoded:
        """Check the input, draw this forward's dropout and run the transformer."""
        batch, embeds = inputs.batch, inputs.embeds
        if embeds is not None and embeds.shape[-1] != self.config.hidden_size:
            raise ValueError(f"inputs_embeds must have hidden_size {self.config.hidden_size}, got {embeds.shape[-1]}")
        self._check(batch, cache)
        rng = draw_rng(batch.input_ids.device) if self.training and self._has_dropout else None
        hidden, states = self.transformer(
            batch,
            inputs_embeds=embeds,
            rng=rng,
            cache=cache,
            output_hidden_states=bool(output_hidden_states),
        )
        return Encoded(hidden, states, rng)

    def loss_terms(self, batch: PackedBatch, *, auxiliary_lm: bool = False) -> dict[str, LossTerm]:
        """The losses of one batch by name ("mlm", "nsp", "lm", "task"), each as a sum and its count of targets.

        Args:
            batch: packed tokens with the targets of this model's head.
            auxiliary_lm: also "lm", next-token prediction over the same input, for GPT's task heads: the mean inside
                each sequence, summed over sequences.
        """
        raise TypeError(f"{type(self).__name__} has no head, and so no loss")

    def target_counts(self, batch: PackedBatch, *, auxiliary_lm: bool = False) -> dict[str, Tensor]:
        """The counts that :meth:`loss_terms` will report, without running the model.

        A trainer needs them first: the gradient of each micro-batch is scaled by the targets of the whole window.
        """
        raise TypeError(f"{type(self).__name__} has no head, and so no targets")

    def auxiliary_lm_term(self, hidden: Tensor, batch: PackedBatch) -> LossTerm:
        """GPT-1's auxiliary objective: predict the input itself (Radford et al. 2018, equation 4)."""
        self._require_causal()
        targets = next_token_targets(batch.input_ids, batch.cu_seqlens)
        rows = target_rows(targets)
        logits = nn.functional.linear(hidden.index_select(0, rows), self.transformer.embeddings.tokens.weight)
        sequence = sequence_index(batch.cu_seqlens, batch.total_tokens).index_select(0, rows)
        return per_sequence_term(logits, targets.index_select(0, rows), sequence, batch.num_sequences)

    def auxiliary_lm_count(self, batch: PackedBatch) -> Tensor:
        """How many sequences have a token to predict."""
        self._require_causal()
        return (batch.cu_seqlens[1:] - batch.cu_seqlens[:-1] > 1).sum()

    # Loading and saving

    @classmethod
    def from_pretrained(
        cls: type[Model],
        path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        ignore_mismatched_sizes: bool = False,
        require_head: bool = False,
        **config_overrides: Any,
    ) -> Model:
        """A model with the weights of a checkpoint in Hugging Face's format, as float32, in evaluation mode.

        Args:
            path: a directory with config.json and the weights, else the id of a hub repository.
            revision: which version of a hub repository.
            ignore_mismatched_sizes: weights of the heads whose shape differs are initialised anew, not refused.
            require_head: a head that the checkpoint lacks is an error, for models that are used and not trained.
            **config_overrides: fields of the configuration, e.g. ``num_labels``, ``id2label``, ``classifier_dropout``.

        A head that the checkpoint does not have is initialised, and a warning lists its weights; so does one for
        weights of the transformer that this class has no use for. Those of another head are logged at level INFO.

        Raises:
            FileNotFoundError: no such directory and no such repository, or a file is missing in it.
            ValueError: a weight of the transformer is missing or has the wrong shape (all are named), or the
                configuration asks for what is not supported.
        """
        files = checkpoints.locate(path, revision)
        config = checkpoints.read_config(files.config).replace(**config_overrides)
        with torch.device("meta"):
            model = cls(config)
        checkpoints.fill_weights(
            model, files, ignore_mismatched_sizes=ignore_mismatched_sizes, require_head=require_head
        )
        return model.eval()

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write config.json and model.safetensors under Hugging Face's names.

        Both are complete before either is put in place, so that a full disk leaves what was there before.
        """
        checkpoints.save(self, directory)

    # Settings

    def set_attention_backend(self, name: str | None) -> None:
        """Use one attention backend by name, or None for the library's choice. It is checked when it is first used."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.backend = name

    def gradient_checkpointing_enable(
        self,
        gradient_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Keep only a block's input for the backward pass and compute the rest again there.

        The keywords are those that transformers' Trainer passes.

        Args:
            gradient_checkpointing_kwargs: ``use_reentrant`` must not be true in it; the rest has no effect.
            every_n_layers: which blocks; 1 for all of them.
            offload: must be False.
        """
        if (gradient_checkpointing_kwargs or {}).get("use_reentrant"):
            raise ValueError("gradient_checkpointing_kwargs: use_reentrant must be False")
        if offload or every_n_layers < 1:
            allowed = "offload must be False and every_n_layers at least 1"
            raise ValueError(f"{allowed}, got offload={offload} and every_n_layers={every_n_layers}")
        self.transformer.checkpoint_every = every_n_layers

    def gradient_checkpointing_disable(self) -> None:
        self.transformer.checkpoint_every = 0

    def get_input_embeddings(self) -> nn.Embedding:
        return self.transformer.embeddings.tokens

    @torch.no_grad()
    def resize_token_embeddings(self, size: int) -> nn.Embedding:
        """Grow or shrink the vocabulary to ``size`` ids. Old rows keep their values, new ones are initialised.

        The parameters are replaced by new ones: make the optimizer afterwards.
        """
        if size < 1:
            raise ValueError(f"resize_token_embeddings: size must be at least 1, got {size}")
        old = self.transformer.embeddings.tokens
        kept = min(size, old.num_embeddings)
        new = nn.Embedding(size, old.embedding_dim, device=old.weight.device, dtype=old.weight.dtype)
        nn.init.normal_(new.weight, std=self.config.initializer_range)
        new.weight[:kept] = old.weight[:kept]
        new.weight.requires_grad_(old.weight.requires_grad)  # what was frozen stays so
        self.transformer.embeddings.tokens = new
        for module in self.modules():
            if isinstance(module, VocabularyHead) and module.bias is not None:
                bias = torch.zeros(size, device=module.bias.device, dtype=module.bias.dtype)
                bias[:kept] = module.bias[:kept]
                module.bias = nn.Parameter(bias, requires_grad=module.bias.requires_grad)
        self.config.vocab_size = size
        return new

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many numbers the model learns; the tied output table counts once."""
        skipped = self.transformer.embeddings.tables() if exclude_embeddings else []
        tables = {id(table.weight) for table in skipped}
        counted = [p for p in self.parameters() if id(p) not in tables and (p.requires_grad or not only_trainable)]
        return sum(p.numel() for p in counted)

    @property
    def device(self) -> torch.device:
        return self.transformer.embeddings.tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.embeddings.tokens.weight.dtype

    def _require_causal(self) -> None:
        if not self.config.causal:
            raise ValueError(f"auxiliary_lm: {self.config.family} does not predict the next token")

    @property
    def _has_dropout(self) -> bool:
        config = self.config
        probabilities = (config.embedding_dropout_prob, config.hidden_dropout_prob, config.attention_probs_dropout_prob)
        return any(probabilities) or config.classifier_dropout_prob > 0

    def _check(self, batch: PackedBatch, cache: KeyValueCache | None) -> None:
        limit = self.config.max_position_embeddings
        bound = batch.max_seqlen + (0 if cache is None else cache.max_seqlen)
        if bound > limit:  # the bound may be a bucket's or the padding's width: only now look at the lengths themselves
            lengths = batch.cu_seqlens[1:] - batch.cu_seqlens[:-1]
            if cache is not None and cache.lengths is not None:
                lengths = lengths + cache.lengths
            longest = int(lengths.max()) if lengths.numel() else 0
            if longest > limit:
                raise ValueError(
                    f"a sequence has {longest} tokens, the model has {limit} positions (max_position_embeddings); "
                    "truncate or split it"
                )
        if cache is not None and self.transformer.checkpoint_every and self.training:
            raise ValueError("past_key_values cannot be used in training with gradient checkpointing")
        if batch.input_ids.device.type == "cpu" and not torch.compiler.is_compiling():
            self.transformer.embeddings.check(batch.input_ids, batch.position_ids, batch.token_type_ids)
