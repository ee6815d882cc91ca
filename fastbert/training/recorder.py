"""What a run writes down: ``metrics.jsonl``, trackers such as TensorBoard, and the progress bar."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import TracebackType

from accelerate import Accelerator
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fastbert.files import replaced

METRICS_FILE = "metrics.jsonl"


class Recorder:
    """Writes metrics and shows progress on the main process; does nothing on the others.

    A line of ``metrics.jsonl`` is ``{"step": ..., "split": "train" | "validation" | "test", name: value, ...}``.
    """

    def __init__(self, accelerator: Accelerator, output: Path, *, title: str, total_steps: int, log_to: str) -> None:
        self._accelerator = accelerator
        self._path = output / METRICS_FILE
        self._log_to = log_to
        self._title = title
        self._total_steps = total_steps
        self._task: TaskID | None = None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            disable=not accelerator.is_main_process,
        )

    def __enter__(self) -> Recorder:
        if self._log_to != "none":
            self._accelerator.init_trackers(self._log_to)
        self._progress.start()
        self._task = self._progress.add_task(escape(self._title), total=self._total_steps, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._log_to != "none":
            self._accelerator.end_training()

    def rewind(self, step: int) -> None:
        """Forget what was written after ``step``, and all tests: a resumed run writes them again."""
        if not self._accelerator.is_main_process or not self._path.exists():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # the last line of a killed run may be cut short
                values = json.loads(line)
                if values["step"] <= step and values["split"] != "test":
                    kept.append(line + "\n")
        with replaced(self._path) as aside:
            aside.write_text("".join(kept), encoding="utf-8")

    def record(self, step: int, split: str, values: dict[str, float]) -> None:
        """Write one line, and the same values to the trackers as ``split/name``."""
        if not self._accelerator.is_main_process:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        if self._log_to != "none":
            self._accelerator.log({f"{split}/{name}": value for name, value in values.items()}, step=step)

    def show(self, step: int, note: str) -> None:
        """Move the progress bar."""
        assert self._task is not None, "show() outside the recorder's context"
        self._progress.update(self._task, completed=step, note=note)

    def say(self, message: str) -> None:
        """Print a line above the progress bar."""
        if self._accelerator.is_main_process:
            self._progress.console.print(message, highlight=False, markup=False)


def read_metrics(output: Path) -> list[dict[str, float | str]]:
    """All lines of a run's ``metrics.jsonl``."""
    text = (output / METRICS_FILE).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def format_metrics(values: dict[str, float]) -> str:
    """``loss 1.234, accuracy 0.876``"""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
