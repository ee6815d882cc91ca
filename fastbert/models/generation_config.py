"""How a language model is to continue a text: one frozen record of all options, checked when it is made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fastbert.models.config import TransformerConfig

_NEEDS_SAMPLING = {"temperature": 1.0, "top_k": None, "top_p": 1.0}
_NEEDS_BEAMS = {"length_penalty": 1.0, "early_stopping": False}


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Options of a generation, under Hugging Face's names and with their meaning.

    Without ``do_sample`` and with one beam, the most likely token is taken each time (greedy). An option that would
    have no effect is refused. Where Hugging Face samples from the 50 most likely tokens unless told otherwise, here
    ``top_k`` is off unless given.

    Attributes:
        max_new_tokens: most tokens to add to each prompt.
        do_sample: draw tokens by their probability.
        temperature: what the scores are divided by before softmax; below 1 sharpens, above 1 flattens.
        top_k: draw from this many most likely tokens, and those tied with the last of them; None or 0 for all.
        top_p: draw from the fewest most likely tokens whose probabilities sum up to this, at least one.
        repetition_penalty: scores of tokens that the prompt or the continuation has are divided by it if positive,
            multiplied if negative (Keskar et al. 2019, section 4.1); 1 for none.
        num_beams: alternatives that beam search follows at once.
        length_penalty: a finished beam's sum of log-probabilities is divided by its new tokens to this power; above 0
            favours long ones.
        early_stopping: True ends a beam search when ``num_beams`` alternatives are finished; False also goes on while
            the best running one, were it finished now, would beat the worst of them; "never" while it still could,
            at any length up to ``max_new_tokens``.
        num_return_sequences: continuations of each prompt: drawn independently, or the best beams.
        eos_token_id: a continuation ends with this token, or with any of several; None for that of the model's
            configuration, an empty list for none.
        pad_token_id: what follows a continuation that ended before others; None for that of the model's
            configuration, else the first end token.
        seed: of the draws; None takes one from torch's generator. The draws of a row of the result depend on the
            seed, the row and the step alone, not on the other rows.
    """

    max_new_tokens: int
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_return_sequences: int = 1
    eos_token_id: int | Sequence[int] | None = None
    pad_token_id: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams", "num_return_sequences"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("temperature", "repetition_penalty"):
            self._require(name, 0 < getattr(self, name) < math.inf, "above 0 and finite")
        self._require("top_k", self.top_k is None or self.top_k >= 0, "None or at least 0")
        self._require("top_p", 0 <= self.top_p <= 1, "between 0 and 1")
        self._require("length_penalty", math.isfinite(self.length_penalty), "finite")
        stopping = self.early_stopping
        self._require("early_stopping", isinstance(stopping, bool) or stopping == "never", 'False, True or "never"')
        self._require("seed", self.seed is None or 0 <= self.seed < 2**63, "None or from 0 to 2^63 - 1")
        self._check_combinations()

    def end_tokens(self, model: TransformerConfig) -> tuple[int, ...]:
        """The tokens a continuation ends with, none of them twice."""
        if self.eos_token_id is None:
            return () if model.eos_token_id is None else (model.eos_token_id,)
        given = (self.eos_token_id,) if isinstance(self.eos_token_id, int) else tuple(self.eos_token_id)
        for token in given:
            if not 0 <= token < model.vocab_size:
                raise ValueError(f"eos_token_id must lie in [0, {model.vocab_size}), got {token}")
        return tuple(dict.fromkeys(given))

    def padding_token(self, model: TransformerConfig) -> int | None:
        """What fills up the rows of shorter continuations; None where nothing says."""
        candidates = (self.pad_token_id, model.pad_token_id, *self.end_tokens(model))
        return next((token for token in candidates if token is not None), None)

    def _check_combinations(self) -> None:
        if self.do_sample and self.num_beams > 1:
            raise ValueError(f"do_sample draws single tokens: num_beams must be 1 with it, got {self.num_beams}")
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"num_return_sequences must be at most num_beams {self.num_beams} without do_sample, "
                f"got {self.num_return_sequences}"
            )
        for needed, met, defaults in (
            ("do_sample=True", self.do_sample, _NEEDS_SAMPLING),
            ("num_beams above 1", self.num_beams > 1, _NEEDS_BEAMS),
        ):
            for name, default in defaults.items():
                if not met and getattr(self, name) != default:
                    raise ValueError(f"{name}={getattr(self, name)!r} has no effect without {needed}")

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {allowed}, got {getattr(self, name)!r}")
