"""Losses as a sum and the number of targets it covers, so that a trainer can average over whatever it likes.

A mean per micro-batch would weigh a target by how many neighbours it happened to have. Every loss here is therefore
kept apart as (sum, count); dividing comes last, over the whole accumulation window and all ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from fastbert.ops import cross_entropy
from fastbert.packing import IGNORE_INDEX, sequence_index


@dataclass(frozen=True)
class LossTerm:
    """One objective on one batch.

    Attributes:
        sum: 0-dim float32, differentiable; 0 with a gradient path where nothing is to be predicted.
        count: 0-dim int64, the targets summed over.
    """

    sum: Tensor
    count: Tensor

    def mean(self) -> Tensor:
        """The loss of this batch alone; 0 where there is no target."""
        return self.sum / self.count.clamp(min=1)


pytree.register_dataclass(LossTerm)  # FSDP's hooks must find the tensor that a backward begins with


def check_count(name: str, targets: Tensor, count: int, what: str) -> None:
    """ValueError unless ``targets`` is (count,), one for each ``what``."""
    if targets.shape != (count,):
        raise ValueError(f"{name} must be ({count},), one for each {what}, got shape {tuple(targets.shape)}")


def check_classes(name: str, targets: Tensor, classes: int) -> None:
    """TypeError unless ``targets`` are int64, ValueError for one that is neither -100 nor in [0, classes).

    Values are read on the CPU only, and not while a graph is being traced: elsewhere looking would mean waiting.
    """
    if targets.dtype != torch.int64:
        raise TypeError(f"{name} must be classes of type torch.int64, got {targets.dtype}")
    if targets.device.type != "cpu" or torch.compiler.is_compiling():
        return
    wrong = targets[(targets != IGNORE_INDEX) & ((targets < 0) | (targets >= classes))]
    if wrong.numel():
        raise ValueError(f"{name} must be {IGNORE_INDEX} (none) or lie in [0, {classes}), got {int(wrong[0])}")


def target_rows(targets: Tensor) -> Tensor:
    """The indices of the targets that are not -100: what a vocabulary head needs to look at."""
    return (targets != IGNORE_INDEX).nonzero().flatten()


def count_targets(targets: Tensor) -> Tensor:
    """0-dim int64: how many targets are not -100."""
    return (targets != IGNORE_INDEX).sum()


def next_token_targets(token_ids: Tensor, cu_seqlens: Tensor) -> Tensor:
    """(total,) -> (total,): what follows each row inside its own sequence, -100 after the last one."""
    sequence = sequence_index(cu_seqlens, token_ids.numel())
    follows = (sequence[1:] == sequence[:-1]) & (sequence[1:] < cu_seqlens.numel() - 1)
    targets = torch.full_like(token_ids, IGNORE_INDEX)
    targets[:-1] = torch.where(follows, token_ids[1:], targets[1:])
    return targets


def cross_entropy_term(logits: Tensor, targets: Tensor, name: str = "labels", what: str = "token") -> LossTerm:
    """Cross entropy of (rows, classes) logits in float32; targets (rows,) equal to -100 are left out.

    ``name`` is the argument the targets came in and ``what`` they belong to, for the errors.
    """
    check_count(name, targets, logits.shape[0], what)
    check_classes(name, targets, logits.shape[-1])
    total = cross_entropy(logits, targets, ignore_index=IGNORE_INDEX)
    return LossTerm(total, count_targets(targets))


def per_sequence_term(logits: Tensor, targets: Tensor, sequence: Tensor, num_sequences: int) -> LossTerm:
    """Cross entropy averaged inside each sequence, then summed over the sequences that have a target.

    This is how GPT-1 weighs its auxiliary objective (Radford et al. 2018, section 3.2 and the released code).

    Args:
        logits: (rows, classes).
        targets: (rows,), none of them -100.
        sequence: (rows,) int64, the sequence of each row.
        num_sequences: number of sequences.
    """
    losses = cross_entropy(logits, targets, reduction="none")
    zeros = losses.new_zeros(num_sequences)
    sums = zeros.index_add(0, sequence, losses)
    counts = zeros.index_add(0, sequence, torch.ones_like(losses))
    return LossTerm((sums / counts.clamp(min=1)).sum(), (counts > 0).sum())


def label_problem(labels: Tensor, num_labels: int, problem_type: str | None) -> str:
    """``problem_type``, and where it is None regression for one label, else what the labels' dtype says."""
    if problem_type is not None:
        return problem_type
    if num_labels == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"


def label_count(labels: Tensor, num_labels: int, problem_type: str | None) -> Tensor:
    """What :func:`label_term` counts: labels that are not -100, else numbers to predict."""
    if label_problem(labels, num_labels, problem_type) == "single_label_classification":
        return count_targets(labels)
    return torch.tensor(labels.numel(), device=labels.device)


def label_term(logits: Tensor, labels: Tensor, problem_type: str | None) -> LossTerm:
    """The loss of a sequence-level head, chosen as Hugging Face chooses it.

    Args:
        logits: (n, num_labels).
        labels: (n,) integers, -100 for none; (n,) or (n, num_labels) numbers for regression; (n, num_labels) floats
            for several labels at once.
        problem_type: "regression", "single_label_classification" or "multi_label_classification"; for None see
            :func:`label_problem`.
    """
    num_labels = logits.shape[-1]
    problem = label_problem(labels, num_labels, problem_type)
    if problem == "single_label_classification":
        return cross_entropy_term(logits, labels.flatten(), what="sequence")
    if labels.numel() != logits.numel() or labels.shape[:1] != logits.shape[:1]:
        wanted, kind = tuple(logits.shape), problem.replace("_", "-")
        raise ValueError(f"labels must be {wanted} (sequences, num_labels) for {kind}, got shape {tuple(labels.shape)}")
    targets = labels.reshape(logits.shape).float()
    loss = F.mse_loss if problem == "regression" else F.binary_cross_entropy_with_logits
    return LossTerm(loss(logits.float(), targets, reduction="sum"), label_count(labels, num_labels, problem_type))


def span_targets(start: Tensor, end: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) answer positions as they are where both lie inside their sequence, else -100 for both."""
    lengths = cu_seqlens[1:] - cu_seqlens[:-1]
    check_count("start_positions", start, lengths.numel(), "sequence")
    check_count("end_positions", end, lengths.numel(), "sequence")
    inside = (start >= 0) & (start < lengths) & (end >= 0) & (end < lengths)
    nothing = torch.full_like(start, IGNORE_INDEX)
    return torch.where(inside, start, nothing), torch.where(inside, end, nothing)


def span_term(start_scores: Tensor, end_scores: Tensor, start: Tensor, end: Tensor) -> LossTerm:
    """The mean of the start's and the end's cross entropy (Devlin et al. 2018, section 4.2).

    Args:
        start_scores, end_scores: (n, seq), hugely negative where a sequence has no token.
        start, end: (n,) from :func:`span_targets`.
    """
    first = cross_entropy_term(start_scores, start, "start_positions", "sequence")
    last = cross_entropy_term(end_scores, end, "end_positions", "sequence")
    return LossTerm((first.sum + last.sum) / 2, first.count)
