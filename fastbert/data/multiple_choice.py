"""Questions with several answers, as examples: one sequence for each answer, after the same context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastbert.data.errors import DataError
from fastbert.data.examples import Example, FixedExamples
from fastbert.data.tokenisation import Tokenizer
from fastbert.data.truncation import truncated_lengths


@dataclass(frozen=True)
class ChoiceQuestion:
    """A context and the texts of which one continues or answers it.

    Attributes:
        context: what all choices share.
        choices: the texts to choose from.
        label: the right one, counted from 0, or None when the file was read without labels.
        question: asked about the context, "" where there is none.
        names: what the file calls the choices: "0", "1", ... or "A", "B", ...
        id: what the file calls the question, or None.
        source: file and line, for error messages.
    """

    context: str
    choices: tuple[str, ...]
    label: int | None = None
    question: str = ""
    names: tuple[str, ...] = ()
    id: str | None = None
    source: str = "a question"

    def name(self, choice: int) -> str:
        """The file's name of a choice."""
        return self.names[choice] if self.names else str(choice)


class MultipleChoiceExamples(FixedExamples):
    """Examples of questions, the same in every epoch, tokenised once.

    Each choice is a sequence [CLS] context [SEP] choice [SEP] or <start> context <delimiter> choice <extract>; a
    question is part of the context, after it (Radford et al. 2018, section 3.3). What exceeds ``max_length`` is cut
    from the context's end, and only where that is not enough from the longer of question and choice.

    Attributes:
        lengths: (len(self),) int64 tokens of all sequences of every example.
        num_truncated: how many sequences were cut.
    """

    def __init__(
        self, questions: Sequence[ChoiceQuestion], tokenizer: Tokenizer, max_length: int, *, labelled: bool
    ) -> None:
        """Tokenise questions.

        Args:
            questions: all with the same number of choices.
            tokenizer: with [CLS] and [SEP], or with the task tokens.
            max_length: most tokens of a sequence, special tokens included.
            labelled: whether the examples get targets.

        Raises:
            DataError: a question with another number of choices than the first, or with fewer than two, a label that
                is missing or out of range, or ``max_length`` without room.
        """
        room = max_length - Tokenizer.num_added(pair=True)
        if room < 2:
            raise DataError(f"max_length must be at least {Tokenizer.num_added(pair=True) + 2}, got {max_length}")
        for question in questions:
            _check(question, len(questions[0].choices), labelled)
        examples = []
        self.num_truncated = 0
        contexts = tokenizer.encode_documents(
            [(q.context, q.question) if q.question else (q.context,) for q in questions]
        )
        choices = iter(tokenizer.encode_batch([choice for question in questions for choice in question.choices]))
        for question, parts in zip(questions, contexts, strict=True):
            asked = parts[1] if question.question else []
            ids: list[int] = []
            segments: list[int] | None = []
            lengths = []
            for _ in question.choices:
                choice = next(choices)
                keep_asked, keep_choice = truncated_lengths(len(asked), len(choice), room)
                context = parts[0][: room - keep_asked - keep_choice]
                kept = len(context) + keep_asked + keep_choice
                self.num_truncated += kept < len(parts[0]) + len(asked) + len(choice)
                sequence, types = tokenizer.build_pair(context + asked[:keep_asked], choice[:keep_choice])
                ids += sequence
                segments = None if types is None or segments is None else segments + types
                lengths.append(len(sequence))
            examples.append(
                Example(
                    np.array(ids, dtype=np.int64),
                    None if segments is None else np.array(segments, dtype=np.int64),
                    label=question.label if labelled else None,
                    sequence_lengths=tuple(lengths),
                )
            )
        super().__init__(examples)


def _check(question: ChoiceQuestion, expected: int, labelled: bool) -> None:
    count = len(question.choices)
    if count < 2:
        raise DataError(f"{question.source}: {count} choices, at least two are needed")
    if count != expected:
        raise DataError(
            f"{question.source}: {count} choices, the file's first question has {expected}; every question of a file "
            "needs as many"
        )
    if not labelled:
        return
    if question.label is None:
        raise DataError(f"{question.source}: a label is needed")
    if not 0 <= question.label < count:
        raise DataError(f"{question.source}: the label is {question.label}; allowed: 0 to {count - 1}")
