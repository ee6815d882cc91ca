"""Predictions as tables: CSV, TSV or JSONL, a row for each record in the input's order."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")


def write_table(path: Path, rows: Iterable[Mapping[str, str | float]]) -> None:
    """Write rows that all have the same columns; numbers get six decimals in CSV and TSV, all their digits in JSONL."""
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            for row in rows:
                file.write(json.dumps(row) + "\n")
            return
        writer = csv.writer(file, delimiter="," if path.suffix == ".csv" else "\t", lineterminator="\n")
        for number, row in enumerate(rows):
            if number == 0:
                writer.writerow(row)
            writer.writerow(f"{value:.6f}" if isinstance(value, float) else value for value in row.values())
