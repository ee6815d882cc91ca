"""Tokenizer directories: reading every layout in use, writing one that Hugging Face's AutoTokenizer reads.

Read: ``tokenizer.json``; else ``vocab.txt`` (BERT); else ``vocab.json`` + ``merges.txt`` (GPT-2, GPT-1), also under
the names of the GPT releases, ``encoder*.json`` + ``*.bpe``. Written: ``tokenizer.json`` with everything,
``tokenizer_config.json``, ``special_tokens_map.json`` and the model's own vocabulary files.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from fastbert.data.errors import DataError
from fastbert.files import files_replaced
from fastbert.hub import hub_failure

WORDPIECE, BYTE_BPE, GPT1_BPE = "wordpiece", "byte-bpe", "gpt1-bpe"
START, DELIMITER, EXTRACT = "<start>", "<delimiter>", "<extract>"
END_OF_TEXT, PAD_TEXT = "<|endoftext|>", "<|pad|>"
END_OF_WORD = "</w>"
CONFIG_FILE, SPECIAL_FILE, TOKENIZER_FILE = "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json"
# What a hub repository is asked for; never weights.
HUB_PATTERNS = [TOKENIZER_FILE, CONFIG_FILE, SPECIAL_FILE, "vocab.txt", "vocab.json", "merges.txt"]
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")
# Above this a model_max_length is Hugging Face's way to write "unknown".
LONGEST_BELIEVABLE = 10**9


@dataclass(frozen=True)
class SpecialTokens:
    """The texts of the special tokens by role, None for a role the vocabulary does not fill."""

    pad: str | None = None
    cls: str | None = None
    sep: str | None = None
    mask: str | None = None
    unk: str | None = None
    bos: str | None = None
    eos: str | None = None


DEFAULT_SPECIAL_TOKENS = {
    WORDPIECE: SpecialTokens(pad="[PAD]", cls="[CLS]", sep="[SEP]", mask="[MASK]", unk="[UNK]"),
    BYTE_BPE: SpecialTokens(unk=END_OF_TEXT, bos=END_OF_TEXT, eos=END_OF_TEXT),
    GPT1_BPE: SpecialTokens(unk="<unk>"),
}


@dataclass(frozen=True)
class TokenizerFiles:
    """What a directory said."""

    backend: tokenizers.Tokenizer
    kind: str
    special_tokens: SpecialTokens
    model_max_length: int | None


def find_directory(name: str | os.PathLike[str]) -> Path:
    """The directory itself, or a local copy of the tokenizer files of a hub repository of that name."""
    path = Path(name)
    if path.is_dir():
        return path
    if path.exists():
        raise DataError(f"tokenizer {path} is a file, a directory with tokenizer files is needed")
    if not HUB_NAME.fullmatch(str(name)):
        raise DataError(f"tokenizer directory {path} does not exist")
    try:
        return Path(huggingface_hub.snapshot_download(str(name), allow_patterns=HUB_PATTERNS))
    except Exception as error:  # The hub's client raises its own, its HTTP library's and the system's errors.
        raise DataError(f"{name} is not a directory, and {hub_failure(error)}") from error


def read_directory(directory: Path) -> TokenizerFiles:
    """Read a tokenizer directory in any of the known layouts; :class:`DataError` when there is none or it is broken."""
    config = _read_json(directory / CONFIG_FILE) if (directory / CONFIG_FILE).is_file() else {}
    try:
        backend = _read_backend(directory, config)
    except DataError:
        raise
    except Exception as error:  # The tokenizers library raises plain Exception for malformed files.
        raise DataError(f"the tokenizer files in {directory} cannot be read: {error}") from error
    # Files may ask for cutting and padding; here both belong to whoever builds the examples.
    backend.no_truncation()
    backend.no_padding()
    kind = _kind(backend, directory)
    roles = dict(config)
    if (directory / SPECIAL_FILE).is_file():
        roles |= _read_json(directory / SPECIAL_FILE)
    length = config.get("model_max_length")
    known = isinstance(length, int) and 0 < length <= LONGEST_BELIEVABLE
    return TokenizerFiles(backend, kind, _special_tokens(backend, kind, roles), length if known else None)


def write_directory(directory: str | os.PathLike[str], files: TokenizerFiles) -> None:
    """Write the files aside and rename each into place, so that none is ever half written."""
    roles = {f"{role}_token": text for role, text in asdict(files.special_tokens).items() if text is not None}
    bert_like = files.special_tokens.cls is not None
    config = {
        # The generic class takes tokenizer.json as it is; family classes would rebuild their own normalizer.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", *(["token_type_ids"] if bert_like else []), "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **({} if files.model_max_length is None else {"model_max_length": files.model_max_length}),
        **roles,
    }
    with files_replaced(Path(directory)) as aside:
        files.backend.save(str(aside / TOKENIZER_FILE))
        files.backend.model.save(str(aside))
        for name, content in ((CONFIG_FILE, config), (SPECIAL_FILE, roles)):
            text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
            (aside / name).write_text(text, encoding="utf-8")


def bert_template(cls: tuple[str, int], sep: tuple[str, int]) -> processors.TemplateProcessing:
    """[CLS] A [SEP] and [CLS] A [SEP] B [SEP], segment 1 from B on (Devlin et al. 2018)."""
    return processors.TemplateProcessing(
        single=f"{cls[0]}:0 $A:0 {sep[0]}:0",
        pair=f"{cls[0]}:0 $A:0 {sep[0]}:0 $B:1 {sep[0]}:1",
        special_tokens=[cls, sep],
    )


def task_template(ids: dict[str, int]) -> processors.TemplateProcessing:
    """<start> A <extract> and <start> A <delimiter> B <extract> (Radford et al. 2018, section 3.3)."""
    return processors.TemplateProcessing(
        single=f"{START} $A {EXTRACT}",
        pair=f"{START} $A {DELIMITER} $B:0 {EXTRACT}",
        special_tokens=list(ids.items()),
    )


def gpt1_backend(vocabulary: str, merges: str) -> tokenizers.Tokenizer:
    """GPT-1's byte pairs: lower-cased, accents stripped, split as BERT splits, words end in ``</w>``."""
    backend = tokenizers.Tokenizer(
        models.BPE.from_file(vocabulary, merges, unk_token="<unk>", end_of_word_suffix=END_OF_WORD)
    )
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.BPEDecoder(suffix=END_OF_WORD)
    if backend.token_to_id("<unk>") is not None:
        backend.add_special_tokens(["<unk>"])
    return backend


def _gpt2_backend(vocabulary: str, merges: str) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE.from_file(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if backend.token_to_id(END_OF_TEXT) is not None:
        backend.add_special_tokens([END_OF_TEXT])
    return backend


def _bert_backend(vocabulary: str, config: dict[str, Any]) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.WordPiece.from_file(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    special = [text for text in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if backend.token_to_id(text) is not None]
    backend.add_special_tokens(special)
    if {"[CLS]", "[SEP]"} <= set(special):
        ids = backend.get_vocab()
        backend.post_processor = bert_template(("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"]))
    return backend


def _read_backend(directory: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    if (directory / TOKENIZER_FILE).is_file():
        return tokenizers.Tokenizer.from_file(str(directory / TOKENIZER_FILE))
    if (directory / "vocab.txt").is_file():
        return _bert_backend(str(directory / "vocab.txt"), config)
    vocabulary = _one(directory, "vocab.json", "encoder*.json")
    merges = _one(directory, "merges.txt", "*.bpe")
    if vocabulary is None or merges is None:
        raise DataError(
            f"no tokenizer in {directory}: it needs tokenizer.json, or vocab.txt, or vocab.json with merges.txt, "
            "or encoder*.json with *.bpe"
        )
    words_end = any(token.endswith(END_OF_WORD) for token in _read_json(vocabulary))
    return (gpt1_backend if words_end else _gpt2_backend)(str(vocabulary), str(merges))


def _one(directory: Path, *patterns: str) -> Path | None:
    for pattern in patterns:
        found = sorted(directory.glob(pattern))
        if len(found) > 1:
            raise DataError(f"{directory} has {len(found)} files {pattern}, one is needed")
        if found:
            return found[0]
    return None


def _kind(backend: tokenizers.Tokenizer, directory: Path) -> str:
    parts = json.loads(backend.to_str())
    model = parts["model"]
    if model["type"] == "WordPiece":
        return WORDPIECE
    if model["type"] == "BPE" and model["end_of_word_suffix"] == END_OF_WORD:
        return GPT1_BPE
    if model["type"] == "BPE" and '"ByteLevel"' in json.dumps(parts["pre_tokenizer"]):
        return BYTE_BPE
    raise DataError(
        f"the tokenizer in {directory} has a {model['type']} model that is not supported; WordPiece, byte-level BPE "
        "and GPT-1's BPE are"
    )


def _special_tokens(backend: tokenizers.Tokenizer, kind: str, roles: dict[str, Any]) -> SpecialTokens:
    found: dict[str, str] = {}
    for role, default in asdict(DEFAULT_SPECIAL_TOKENS[kind]).items():
        value = roles.get(f"{role}_token", default)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str) and backend.token_to_id(text) is not None:
            found[role] = text
    return SpecialTokens(**found)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold a JSON object, it holds a {type(content).__name__}")
    return content
