"""A corpus read in blocks: whatever their size, the same documents, lines and byte counts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from fastbert.data import DataError
from fastbert.data.corpus import documents_of
from fastbert.data.text_blocks import read_blocks

DOCUMENTS = [["One.", "Zwei, größer."], ["세 번째."], ["Four"], ["Five", "and  six"], ["x" * 40]]
SIZES = [1, 2, 3, 7, 20, 64, 10**6]


def corpus(directory: Path) -> list[Path]:
    """The documents five times: blank lines of each kind, both line ends, objects, compressed, small files."""
    blanks = ["\n", "\n\n", " \t\n", "\r\n", "\n\n\n"]
    text = "\n".join("\n".join(lines) + "\n" + blank for lines, blank in zip(DOCUMENTS, blanks, strict=True))
    objects = "".join(json.dumps({"text": "\n".join(lines)}) + "\n\n" for lines in DOCUMENTS)
    contents = {
        "a.txt": b"\xef\xbb\xbf" + text.encode(),
        "b.txt.gz": gzip.compress(text.replace("\n", "\r\n").encode()),
        "c.jsonl": objects.encode().rstrip(b"\n"),
        "d.jsonl.gz": gzip.compress(objects.encode()),
        "empty.txt": b"",
    } | {f"e{i}.txt": "\n".join(lines).encode() for i, lines in enumerate(DOCUMENTS)}
    for name, data in contents.items():
        (directory / name).write_bytes(data)
    return [directory / name for name in contents]


@pytest.mark.parametrize("size", SIZES)
def test_blocks_hold_whole_documents_and_every_byte_is_counted(tmp_path: Path, size: int) -> None:
    paths = corpus(tmp_path)
    blocks = list(read_blocks(paths, size))
    assert [document for block in blocks for document in documents_of(block, "line")] == DOCUMENTS * 5
    assert sum(block.bytes_read for block in blocks) == sum(path.stat().st_size for path in paths)
    assert all(sum(len(piece.data) for piece in block.pieces) >= size for block in blocks[:-1])
    assert (len(blocks) == 1) == (size == 10**6)


@pytest.mark.parametrize("size", SIZES)
def test_lines_are_numbered_from_the_start_of_their_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.txt"
    lines = ["first", "", "third", "", "", "sixth", "seventh", "", "ninth"]
    path.write_text("\n".join(lines))
    read = [
        (n, line.rstrip("\n")) for block in read_blocks([path], size) for p in block.pieces for n, line in p.lines()
    ]
    assert read == list(enumerate(lines, start=1))


@pytest.mark.parametrize("size", SIZES)
def test_errors_name_file_and_line_in_any_block(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\n' * 4 + "{}\n")
    with pytest.raises(DataError, match=r'a\.jsonl, line 5: the object has no "text"'):
        [list(documents_of(block, "line")) for block in read_blocks([path], size)]


def test_damaged_compressed_data(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"some text\n" * 100)[:-10])
    with pytest.raises(DataError, match=r"a\.txt\.gz is not a complete gzip file"):
        list(read_blocks([path], 50))
