"""Questions with their contexts as examples: windows over a long context (Devlin et al. 2018, section 4.2)."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastbert.data.errors import DataError
from fastbert.data.examples import Example, FixedExamples
from fastbert.data.squad import SquadQuestion
from fastbert.data.tokenisation import Tokenizer

MOST_QUESTION_TOKENS = 64


class ContextWindow(NamedTuple):
    """One example of a question.

    Attributes:
        question: its number.
        first: the first token of the context that is here; the others follow.
        size: how many tokens of the context there are.
        offset: where the first one is in the sequence.
        null: the token that stands for no answer here: [CLS], or GPT's <extract>.
    """

    question: int
    first: int
    size: int
    offset: int
    null: int


class QuestionWindows(FixedExamples):
    """Examples of questions, the same in every epoch, tokenised once.

    A question and a stretch of its context become [CLS] question [SEP] context [SEP] or <start> question <delimiter>
    context <extract>. A context that does not fit becomes several windows, each ``stride`` tokens after the one before.
    A window's targets are the first and the last token of the first answer, or where that is not all inside, the token
    that stands for no answer.

    Attributes:
        lengths: (len(self),) int64 tokens of every example.
        windows: (len(self),) what every example shows.
        offsets: for every question, (tokens, 2) where the context's tokens begin and end in its text.
        max_answer_length: most tokens of an answer, for those who read the model's scores.
        null_threshold: likewise, see fastbert.training.tasks.question_answering.
    """

    def __init__(
        self,
        questions: Sequence[SquadQuestion],
        tokenizer: Tokenizer,
        *,
        max_length: int,
        stride: int,
        labelled: bool,
        max_answer_length: int = 30,
        null_threshold: float = 0.0,
    ) -> None:
        """Tokenise questions.

        Args:
            questions: what to encode.
            tokenizer: with [CLS] and [SEP], or with the task tokens.
            max_length: most tokens of a sequence, special tokens included; a question keeps 64 of its own at most.
            stride: tokens from the beginning of a window to that of the next.
            labelled: whether examples get targets.
            max_answer_length, null_threshold: kept as they are.

        Raises:
            DataError: ``max_length`` or ``stride`` out of range, a context without a token, or an answer without one.
        """
        room = max_length - Tokenizer.num_added(pair=True) - MOST_QUESTION_TOKENS
        if room < 1:
            least = Tokenizer.num_added(pair=True) + MOST_QUESTION_TOKENS + 1
            raise DataError(f"max_length must be at least {least} for questions and contexts, got {max_length}")
        if stride < 1:
            raise DataError(f"stride must be at least 1, got {stride}")
        self.max_answer_length, self.null_threshold = max_answer_length, null_threshold
        self.windows: list[ContextWindow] = []
        self.offsets: list[npt.NDArray[np.int64]] = []
        examples = []
        asked = tokenizer.encode_batch([question.question for question in questions])
        for number, (question, ids) in enumerate(zip(questions, asked, strict=True)):
            ids = ids[:MOST_QUESTION_TOKENS]
            context, offsets = tokenizer.encode_with_offsets(question.context)
            if not context:
                raise DataError(f"{question.source}: the context has no token")
            self.offsets.append(offsets)
            span = answer_tokens(question, offsets) if labelled and question.answers else None
            fit = max_length - Tokenizer.num_added(pair=True) - len(ids)
            for first in window_starts(len(context), fit, stride):
                part = context[first : first + fit]
                built, segments = tokenizer.build_pair(ids, part)
                null = 0 if tokenizer.cls_id is not None else len(built) - 1
                window = ContextWindow(number, first, len(part), len(ids) + 2, null)
                self.windows.append(window)
                start, end = _targets(span, window) if labelled else (None, None)
                examples.append(
                    Example(
                        np.array(built, dtype=np.int64),
                        None if segments is None else np.array(segments, dtype=np.int64),
                        start_position=start,
                        end_position=end,
                    )
                )
        super().__init__(examples)


def window_starts(tokens: int, room: int, stride: int) -> list[int]:
    """Where windows of ``room`` tokens begin, so that they cover all; a stride beyond the room is cut to it."""
    starts = [0]
    while starts[-1] + room < tokens:
        starts.append(starts[-1] + min(room, stride))
    return starts


def answer_tokens(question: SquadQuestion, offsets: npt.NDArray[np.int64]) -> tuple[int, int]:
    """The first and the last token of the context that touch the first answer; DataError where none does."""
    answer = question.answers[0]
    inside = np.flatnonzero((offsets[:, 1] > answer.start) & (offsets[:, 0] < answer.start + len(answer.text)))
    if inside.size == 0:
        raise DataError(f"{question.source}: the tokenizer leaves nothing of the answer {answer.text!r}")
    return int(inside[0]), int(inside[-1])


def span_text(context: str, offsets: npt.NDArray[np.int64], first: int, last: int) -> tuple[int, int]:
    """(a, b) with ``context[a:b]`` the text of tokens ``first`` to ``last``.

    White space at the ends belongs to byte-level tokens and not to the text; marks that a tokenizer dropped belong to
    the character they stand on.
    """
    a, b = int(offsets[first, 0]), int(offsets[last, 1])
    while a < b and context[a].isspace():
        a += 1
    while b > a and context[b - 1].isspace():
        b -= 1
    while b < len(context) and unicodedata.combining(context[b]):
        b += 1
    return a, b


def _targets(span: tuple[int, int] | None, window: ContextWindow) -> tuple[int, int]:
    if span is None or span[0] < window.first or span[1] >= window.first + window.size:
        return window.null, window.null
    return tuple(token - window.first + window.offset for token in span)  # type: ignore[return-value]
