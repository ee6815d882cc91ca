"""Pretraining and fine-tuning: :func:`pretrain` and :func:`finetune`, the same for BERT and GPT."""

from __future__ import annotations

from fastbert.training.config import FinetuneConfig, Phase, PretrainConfig, RunResult, TrainingConfig
from fastbert.training.finetuning import finetune
from fastbert.training.pretraining import pretrain

__all__ = ["FinetuneConfig", "Phase", "PretrainConfig", "RunResult", "TrainingConfig", "finetune", "pretrain"]
