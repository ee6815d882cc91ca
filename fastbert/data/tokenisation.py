"""Text to token ids and back: one :class:`Tokenizer` for BERT's WordPiece, byte-level BPE and GPT-1's BPE."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cached_property

import numpy as np
import numpy.typing as npt
import tokenizers

from fastbert.data.errors import DataError
from fastbert.data.tokenizer_files import (
    BYTE_BPE,
    DEFAULT_SPECIAL_TOKENS,
    DELIMITER,
    END_OF_TEXT,
    EXTRACT,
    GPT1_BPE,
    PAD_TEXT,
    START,
    WORDPIECE,
    SpecialTokens,
    TokenizerFiles,
    find_directory,
    read_directory,
    task_template,
    write_directory,
)
from fastbert.data.tokenizer_training import train_byte_bpe_backend, train_wordpiece_backend

DEFAULT_MAX_LENGTH = 512
# Byte-level BPE writes every byte as one printable character. Characters 256 to 289 stand for the control bytes and
# the space; everything above for bytes inside a multi-byte UTF-8 character.
LAST_CONTROL_CHARACTER = 289


class Tokenizer:
    """A tokenizer of one of three kinds, with the special tokens by role.

    Text is brought to Unicode NFC by every tokenizer trained here. Texts of special tokens that occur in the input
    ("... is [MASK].") become those tokens, as in Hugging Face's tokenizers. The special tokens around a sequence are
    added by :meth:`build_single` and :meth:`build_pair` only.

    Attributes:
        kind: "wordpiece", "byte-bpe" or "gpt1-bpe".
        special_tokens: texts of the special tokens by role.
        model_max_length: the longest sequence of the model this tokenizer belongs to, None when unknown. Assign it
            before :meth:`save` to record another.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        kind: str,
        special_tokens: SpecialTokens,
        model_max_length: int | None = DEFAULT_MAX_LENGTH,
    ) -> None:
        self._backend = backend
        self.kind = kind
        self.special_tokens = special_tokens
        self.model_max_length = model_max_length

    @classmethod
    def load(cls, name: str | os.PathLike[str]) -> Tokenizer:
        """From a directory (tokenizer.json, vocab.txt, or vocabulary and merges), else from the hub by that name.

        Raises:
            DataError: neither exists, or the files are broken or of an unsupported kind.
        """
        files = read_directory(find_directory(name))
        return cls(files.backend, files.kind, files.special_tokens, files.model_max_length)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write a directory that :meth:`load` and Hugging Face's AutoTokenizer read with equal ids."""
        files = TokenizerFiles(self._backend, self.kind, self.special_tokens, self.model_max_length)
        write_directory(directory, files)

    @classmethod
    def train_wordpiece(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        lowercase: bool = True,
        strip_accents: bool = False,
        model_max_length: int = DEFAULT_MAX_LENGTH,
    ) -> Tokenizer:
        """Train BERT's kind of vocabulary. Small or repetitive texts may fill less than ``vocab_size``.

        Raises:
            DataError: no text, or ``vocab_size`` without room for more than the special tokens.
        """
        backend = train_wordpiece_backend(texts, vocab_size, lowercase, strip_accents)
        return cls(backend, WORDPIECE, DEFAULT_SPECIAL_TOKENS[WORDPIECE], model_max_length)

    @classmethod
    def train_byte_bpe(
        cls, texts: Iterable[str], vocab_size: int, model_max_length: int = DEFAULT_MAX_LENGTH
    ) -> Tokenizer:
        """Train GPT-2's kind of vocabulary: byte-level BPE, no unknown token, one end-of-text and one padding token.

        Raises:
            DataError: no text, or ``vocab_size`` below the 256 bytes and the special tokens.
        """
        backend = train_byte_bpe_backend(texts, vocab_size)
        special = SpecialTokens(pad=PAD_TEXT, unk=END_OF_TEXT, bos=END_OF_TEXT, eos=END_OF_TEXT)
        return cls(backend, BYTE_BPE, special, model_max_length)

    @cached_property
    def vocab_size(self) -> int:
        """Rows an embedding needs: the largest id + 1."""
        return max(self._backend.get_vocab().values()) + 1

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides the ids."""
        return hashlib.sha256(self._backend.to_str().encode("utf-8")).hexdigest()

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of all special tokens, the task tokens included."""
        texts = {text for text in asdict(self.special_tokens).values() if text is not None} | {
            PAD_TEXT,
            START,
            DELIMITER,
            EXTRACT,
        }
        return frozenset(i for text in texts if (i := self._backend.token_to_id(text)) is not None)

    @cached_property
    def ordinary_ids(self) -> npt.NDArray[np.int64]:
        """Sorted ids of all tokens that are not special."""
        return np.array(sorted(set(self._backend.get_vocab().values()) - self.special_ids), dtype=np.int64)

    @property
    def pad_id(self) -> int | None:
        return self._id(self.special_tokens.pad)

    @property
    def cls_id(self) -> int | None:
        return self._id(self.special_tokens.cls)

    @property
    def sep_id(self) -> int | None:
        return self._id(self.special_tokens.sep)

    @property
    def mask_id(self) -> int | None:
        return self._id(self.special_tokens.mask)

    @property
    def unk_id(self) -> int | None:
        return self._id(self.special_tokens.unk)

    @property
    def bos_id(self) -> int | None:
        return self._id(self.special_tokens.bos)

    @property
    def eos_id(self) -> int | None:
        return self._id(self.special_tokens.eos)

    @property
    def start_id(self) -> int | None:
        return self._id(START)

    @property
    def delimiter_id(self) -> int | None:
        return self._id(DELIMITER)

    @property
    def extract_id(self) -> int | None:
        return self._id(EXTRACT)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens around it."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], npt.NDArray[np.int64]]:
        """:meth:`encode`, and (tokens, 2) where each token begins and ends in the text, in characters."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        return encoding.ids, np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """:meth:`encode` of many texts, on several threads."""
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_documents(self, documents: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        """Token ids of every sentence of every document.

        In byte-level BPE a space belongs to the word after it, so sentences after a document's first get one: the ids
        of a document laid end to end are those of its sentences joined by a space.
        """
        join = " " if self.kind == BYTE_BPE else ""
        flat = [
            sentence if i == 0 else join + sentence for document in documents for i, sentence in enumerate(document)
        ]
        ids = iter(self.encode_batch(flat))
        return [[next(ids) for _ in document] for document in documents]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def token(self, token_id: int) -> str:
        """The vocabulary entry of one id ("##ing", "Ġthe"). ValueError when there is none."""
        text: str | None = self._backend.id_to_token(token_id)
        if text is None:
            raise ValueError(f"token id must be in [0, {self.vocab_size}), got {token_id}")
        return text

    def token_to_id(self, token: str) -> int | None:
        """The id of one vocabulary entry, None when there is none."""
        return self._id(token)

    def is_continuation(self, token_id: int) -> bool:
        """Whether a token continues the word of the token before it. See :attr:`continuation_mask`."""
        return bool(self.continuation_mask[token_id])

    @cached_property
    def continuation_mask(self) -> npt.NDArray[np.bool_]:
        """(vocab_size,) which tokens continue a word.

        WordPiece: those that begin with "##". Byte-level BPE: those that begin with a letter, a digit or a non-ASCII
        character rather than a space, so the first word of a text counts as one too.

        Raises:
            DataError: for GPT-1's BPE, which marks the end of a word and not its beginning.
        """
        if self.kind == GPT1_BPE:
            raise DataError("GPT-1's BPE does not mark the beginning of words; WordPiece and byte-level BPE do")
        continues = _continues_wordpiece if self.kind == WORDPIECE else _continues_byte_level
        mask = np.zeros(self.vocab_size, dtype=np.bool_)
        for token, i in self._backend.get_vocab().items():
            mask[i] = i not in self.special_ids and continues(token)
        return mask

    def add_task_tokens(self) -> int:
        """Give a GPT tokenizer the tokens of its fine-tuning inputs: <start>, <delimiter>, <extract>.

        Returns how many were added at the end of the vocabulary, so that the embedding can grow by as many: 3, or 0
        when they are there or the tokenizer has [CLS] and [SEP] for the purpose.
        """
        if self._has_cls_and_sep:
            return 0
        added: int = self._backend.add_special_tokens([START, DELIMITER, EXTRACT])
        ids = {text: i for text in (START, DELIMITER, EXTRACT) if (i := self._id(text)) is not None}
        self._backend.post_processor = task_template(ids)
        for name in ("vocab_size", "fingerprint", "special_ids", "ordinary_ids", "continuation_mask"):
            self.__dict__.pop(name, None)
        return added

    def build_single(self, ids: Sequence[int]) -> tuple[list[int], list[int] | None]:
        """One text with its special tokens: (input_ids, token_type_ids).

        [CLS] text [SEP] in segment 0, or <start> text <extract> without segments (None). Adds :meth:`num_added`.

        Raises:
            DataError: a GPT tokenizer without task tokens.
        """
        if self._has_cls_and_sep:
            built = [self._need(self.cls_id), *ids, self._need(self.sep_id)]
            return built, [0] * len(built)
        return [self._need(self.start_id), *ids, self._need(self.extract_id)], None

    def build_pair(self, a: Sequence[int], b: Sequence[int]) -> tuple[list[int], list[int] | None]:
        """Two texts with their special tokens: (input_ids, token_type_ids).

        [CLS] a [SEP] b [SEP] with segment 1 from b on, or <start> a <delimiter> b <extract> without segments (None).

        Raises:
            DataError: a GPT tokenizer without task tokens.
        """
        if self._has_cls_and_sep:
            sep = self._need(self.sep_id)
            return [self._need(self.cls_id), *a, sep, *b, sep], [0] * (len(a) + 2) + [1] * (len(b) + 1)
        start, delimiter, extract = map(self._need, (self.start_id, self.delimiter_id, self.extract_id))
        return [start, *a, delimiter, *b, extract], None

    @staticmethod
    def num_added(pair: bool) -> int:
        """How many special tokens :meth:`build_single` (2) and :meth:`build_pair` (3) add."""
        return 3 if pair else 2

    @property
    def _has_cls_and_sep(self) -> bool:
        return self.special_tokens.cls is not None and self.special_tokens.sep is not None

    def _id(self, text: str | None) -> int | None:
        if text is None:
            return None
        token_id: int | None = self._backend.token_to_id(text)
        return token_id

    def _need(self, token_id: int | None) -> int:
        if token_id is None:
            raise DataError(
                f"the {self.kind} tokenizer has no {START}, {DELIMITER}, {EXTRACT}; add_task_tokens() adds them"
            )
        return token_id


def _continues_wordpiece(token: str) -> bool:
    return token.startswith("##")


def _continues_byte_level(token: str) -> bool:
    first = token[0]
    return ord(first) > LAST_CONTROL_CHARACTER or 127 < ord(first) < 256 or (first.isascii() and first.isalnum())
