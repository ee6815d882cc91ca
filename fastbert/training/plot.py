"""Loss curves as a picture, from the ``metrics.jsonl`` of runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fastbert.files import replaced
from fastbert.training.recorder import read_metrics


def plot_losses(runs: Mapping[str, Path], path: Path) -> None:
    """Draw training (line) and held-out loss (dots) over the steps, one panel a run, into the PNG ``path``.

    Args:
        runs: title -> output directory of the run.
        path: the picture, written aside and renamed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, len(runs))
    rows = -(-len(runs) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.0 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, (title, output) in zip(panels, runs.items(), strict=False):
        lines = read_metrics(output)
        for split, style in (("train", {"linewidth": 1.2}), ("validation", {"marker": "o", "linestyle": "--"})):
            # Fine-tuned GPT trains on more than it is measured by: what both curves have is the task's loss.
            points = [(line["step"], line.get("task", line["loss"])) for line in lines if line["split"] == split]
            if points:
                panel.plot(*zip(*points, strict=True), label="held out" if split == "validation" else split, **style)
        panel.set(title=title, xlabel="step", ylabel="loss")
        panel.grid(alpha=0.3)
        panel.legend()
    for panel in panels[len(runs) :]:
        panel.set_axis_off()
    with replaced(path) as aside:
        figure.savefig(aside, dpi=120)
