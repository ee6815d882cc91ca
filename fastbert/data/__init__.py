"""Text to examples to packed batches."""

from __future__ import annotations

from fastbert.data.batching import token_budget_batches
from fastbert.data.collation import collate
from fastbert.data.corpus import Document, find_files, read_documents, split_sentences, write_documents
from fastbert.data.errors import DataError
from fastbert.data.examples import EpochView, Example, Examples
from fastbert.data.pretraining import CausalExamples, NextSentence, SentencePairExamples, split_documents
from fastbert.data.text_classification import (
    TextClassificationExamples,
    TextRecord,
    build_label2id,
    read_records,
)
from fastbert.data.text_stream import TextStream
from fastbert.data.token_cache import TokenizedCorpus, cached_corpus, tokenize_documents
from fastbert.data.tokenisation import Tokenizer

__all__ = [
    "CausalExamples",
    "DataError",
    "Document",
    "EpochView",
    "Example",
    "Examples",
    "NextSentence",
    "SentencePairExamples",
    "TextClassificationExamples",
    "TextRecord",
    "TextStream",
    "TokenizedCorpus",
    "Tokenizer",
    "build_label2id",
    "cached_corpus",
    "collate",
    "find_files",
    "read_documents",
    "read_records",
    "split_documents",
    "split_sentences",
    "token_budget_batches",
    "tokenize_documents",
    "write_documents",
]
