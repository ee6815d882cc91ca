"""Text to examples to packed batches."""

from __future__ import annotations

from fastbert.data.batching import token_budget_batches
from fastbert.data.collation import collate
from fastbert.data.column_files import TaggedSentence, read_column_file, write_column_file
from fastbert.data.corpus import Document, find_files, read_documents, split_sentences, write_documents
from fastbert.data.errors import DataError
from fastbert.data.examples import EpochView, Example, Examples
from fastbert.data.glue import GLUE_LAYOUTS, GlueLayout, read_glue
from fastbert.data.multiple_choice import ChoiceQuestion, MultipleChoiceExamples
from fastbert.data.multiple_choice_files import read_choice_questions
from fastbert.data.pretraining import CausalExamples, NextSentence, SentencePairExamples, split_documents
from fastbert.data.question_windows import ContextWindow, QuestionWindows, span_text
from fastbert.data.squad import Answer, SquadQuestion, read_squad
from fastbert.data.tagging import TaggingExamples, build_tag2id
from fastbert.data.text_classification import (
    TextClassificationExamples,
    TextRecord,
    build_label2id,
    class_targets,
    number_targets,
    read_records,
)
from fastbert.data.text_examples import TextExamples
from fastbert.data.text_groups import TextGroups
from fastbert.data.text_stream import TextStream
from fastbert.data.token_cache import TokenizedCorpus, cached_corpus, tokenize_documents
from fastbert.data.tokenisation import Tokenizer

__all__ = [
    "GLUE_LAYOUTS",
    "Answer",
    "CausalExamples",
    "ChoiceQuestion",
    "ContextWindow",
    "DataError",
    "Document",
    "EpochView",
    "Example",
    "Examples",
    "GlueLayout",
    "MultipleChoiceExamples",
    "NextSentence",
    "QuestionWindows",
    "SentencePairExamples",
    "SquadQuestion",
    "TaggedSentence",
    "TaggingExamples",
    "TextClassificationExamples",
    "TextExamples",
    "TextGroups",
    "TextRecord",
    "TextStream",
    "TokenizedCorpus",
    "Tokenizer",
    "build_label2id",
    "build_tag2id",
    "cached_corpus",
    "class_targets",
    "collate",
    "find_files",
    "number_targets",
    "read_choice_questions",
    "read_column_file",
    "read_documents",
    "read_glue",
    "read_records",
    "read_squad",
    "span_text",
    "split_documents",
    "split_sentences",
    "token_budget_batches",
    "tokenize_documents",
    "write_column_file",
    "write_documents",
]
