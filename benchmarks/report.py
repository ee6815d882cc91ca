"""From pytest-benchmark's JSON to a page, a picture and condensed numbers, named after the processor.

python -m pytest benchmarks --benchmark-json=runs/benchmarks.json
python benchmarks/report.py runs/benchmarks.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastbert.files import replaced

RESULTS = Path(__file__).resolve().parent / "results"
_COLOURS = {"float32": "#3b6fb6", "bfloat16": "#d9822b", "autocast bfloat16": "#8a4fa3"}
_OTHER_COLOUR = "#777777"


@dataclass(frozen=True)
class Line:
    """One peer of one row.

    Attributes:
        work: heading of the table.
        shape: sizes.
        dtype: of both sides.
        variant: what tells rows of one shape and dtype apart.
        backend: the attention backend of our side, or "".
        ours_ms: median of our side, milliseconds.
        peer: who was measured against.
        peer_ms: median of the peer, milliseconds.
        ratio: peer_ms / ours_ms; above 1 we are faster.
        ratio_low: lower quartile of the ratios of single rounds.
        ratio_high: upper quartile.
        rate: what our side did a second.
        unit: of the rate, such as "GFLOP/s"; "" where there is none.
        rounds: how often each side ran.
        threads: torch's.
    """

    work: str
    shape: str
    dtype: str
    variant: str
    backend: str
    ours_ms: float
    peer: str
    peer_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    rate: float
    unit: str
    rounds: int
    threads: int


@dataclass(frozen=True)
class Results:
    """What a page is made of: the lines in the order they were measured, the machine, and what is missing."""

    lines: list[Line]
    machine: dict[str, Any]
    date: str
    commit: str
    full: bool  # compiled peers ran too
    left_out: dict[str, str]  # the row's pytest name -> why

    @property
    def slug(self) -> str:
        """The name of the files: processor and instruction set."""
        return slug(self.machine["processor"], self.machine["instruction_set"])

    def as_dict(self) -> dict[str, Any]:
        """What the JSON file holds: milliseconds and rates to five digits."""
        rows = [
            {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in row.items()}
            for row in map(dataclasses.asdict, self.lines)
        ]
        return {
            "date": self.date,
            "commit": self.commit,
            "full": self.full,
            "machine": self.machine,
            "rows": rows,
            "left_out": self.left_out,
        }


def slug(processor: str, instruction_set: str) -> str:
    """Such as "amd-epyc-avx2": without trademarks and clock rates."""
    name = re.sub(r"\((R|TM)\)|@.*|\b(CPU|Processor)\b", " ", processor, flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]+", "-", f"{name} {instruction_set}".lower()).strip("-")


def read(path: Path) -> Results:
    """The results in a JSON of pytest-benchmark.

    Raises:
        ValueError: the file does not come from these suites, or nothing was measured.
    """
    raw = json.loads(path.read_text(encoding="utf-8"))
    machine = raw.get("machine_info", {}).get("fastbert") if isinstance(raw, dict) else None
    if machine is None:
        raise ValueError(f"{path} does not come from the suites in benchmarks/: it has no machine_info.fastbert")
    measured = [bench["extra_info"] for bench in raw["benchmarks"] if "peers" in bench["extra_info"]]
    lines = [line for row in measured for line in _lines(row)]
    if not lines:
        raise ValueError(f"{path} has no measured row")
    commit = raw.get("commit_info", {})
    return Results(
        lines=lines,
        machine=machine,
        date=raw["datetime"][:10],
        commit=str(commit.get("id", "unknown"))[:12] + (" with changes" if commit.get("dirty") else ""),
        full=raw["full"],
        left_out=raw["left_out"],
    )


def _lines(row: dict[str, Any]) -> Iterable[Line]:
    for peer, figures in row["peers"].items():
        yield Line(
            work=row["work"],
            shape=row["shape"],
            dtype=row["dtype"],
            variant=row["variant"],
            backend=row["backend"],
            ours_ms=1e3 * row["ours"],
            peer=peer,
            peer_ms=1e3 * figures["median"],
            ratio=figures["ratio"],
            ratio_low=figures["quartiles"][0],
            ratio_high=figures["quartiles"][1],
            rate=row["amount"] / row["ours"],
            unit=f"{row['unit']}/s" if row["unit"] else "",
            rounds=row["rounds"],
            threads=row["threads"],
        )


def write(results: Results, directory: Path) -> list[Path]:
    """Write the page, the picture and the numbers; each file is whole or not there."""
    picture = directory / f"{results.slug}.svg"
    draw(results, picture)
    page, numbers = directory / f"{results.slug}.md", directory / f"{results.slug}.json"
    for path, text in ((numbers, json.dumps(results.as_dict(), indent=1) + "\n"), (page, markdown(results))):
        with replaced(path) as aside:
            aside.write_text(text, encoding="utf-8")
    return [page, numbers, picture]


def markdown(results: Results) -> str:
    """The page."""
    machine = results.machine
    parts = [
        f"# Benchmarks: {machine['processor']}, {machine['instruction_set']}",
        _table(
            ("", ""),
            [
                ("processor", machine["processor"]),
                ("instruction set", machine["instruction_set"]),
                ("threads", f"{_threads(results.lines)} on {machine['processors']} processors"),
                ("torch", machine["torch"]),
                ("transformers", machine["transformers"] or "not installed"),
                ("Python", machine["python"]),
                ("fastbert", f"{machine['fastbert']}, commit {results.commit}"),
                ("attention backends", _backends(machine)),
                ("date", results.date),
            ],
        ),
        "Each pair ran in one process, in turns, on the same numbers. Times are medians of the rounds; ratio = peer / "
        "ours, so above 1 fastbert is faster; the quartiles are those of the rounds' own ratios. The rate is ours. "
        "[README](../README.md) has the details.",
        f"![ratios]({results.slug}.svg)",
    ]
    for work, lines in by_work(results.lines).items():
        parts += [f"## {work[0].upper()}{work[1:]}", _work_table(lines)]
    parts += ["## Left out", _left_out(results)]
    return "\n\n".join(parts) + "\n"


def by_work(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """Lines by heading, both in the order in which they were measured."""
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line.work, []).append(line)
    return groups


def _work_table(lines: Sequence[Line]) -> str:
    unit = lines[0].unit
    with_backend = any(line.backend for line in lines)
    header = ["shape", "dtype", "variant", "ours, ms", "peer", "peer, ms", "ratio", "quartiles", unit, "rounds"]
    rows = [
        [
            line.shape,
            line.dtype,
            line.variant,
            _number(line.ours_ms),
            line.peer,
            _number(line.peer_ms),
            f"**{line.ratio:.2f}**",
            f"{line.ratio_low:.2f} to {line.ratio_high:.2f}",
            _number(line.rate),
            str(line.rounds),
        ]
        + ([line.backend] if with_backend else [])
        for line in lines
    ]
    header += ["backend"] if with_backend else []
    kept = [i for i, name in enumerate(header) if name and any(row[i] for row in rows)]
    return _table([header[i] for i in kept], [[row[i] for i in kept] for row in rows])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float) -> str:
    """Three digits, or all of those before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def _threads(lines: Sequence[Line]) -> str:
    return ", ".join(str(threads) for threads in sorted({line.threads for line in lines}))


def _backends(machine: dict[str, Any]) -> str:
    """In the order in which they are tried, and what keeps one from a packed bfloat16 training call."""
    if machine["forced_backend"]:
        return f"{machine['forced_backend']}, which FASTBERT_BACKEND forces"
    return ", ".join(
        name if reason is None else f"{name} (not for packed bfloat16: {reason})"
        for name, reason in machine["backends"].items()
    )


def _left_out(results: Results) -> str:
    reasons: dict[str, dict[str, list[str]]] = {}
    for row, reason in results.left_out.items():
        suite, _, case = row.rpartition("/")[2].partition("[")
        reasons.setdefault(reason, {}).setdefault(suite, []).append(case.rstrip("]"))
    parts = [] if results.full else ["- compiled peers, which --full adds"]
    for reason, suites in reasons.items():
        count = sum(len(cases) for cases in suites.values())
        parts.append(f"- {reason} ({count} {'row' if count == 1 else 'rows'})")
        parts += [f"  - `{suite}`: {', '.join(filter(None, cases))}" for suite, cases in suites.items()]
    return "\n".join(parts) or "Nothing: every row ran, with every peer."


def draw(results: Results, path: Path) -> None:
    """Draw the ratios as horizontal bars from 1, one panel a kind of work, into an SVG."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    groups = by_work(results.lines)
    heights = [len(lines) + 1.6 for lines in groups.values()]
    # A fixed salt and no date: the same numbers give the same file.
    with mpl.rc_context({"svg.hashsalt": results.slug, "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9.5, 0.21 * sum(heights) + 1.0), layout="constrained")
        FigureCanvasSVG(figure)
        panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=heights).flatten()
        for panel, (work, lines) in zip(panels, groups.items(), strict=True):
            _draw_panel(panel, work, lines)
        _scale(panels[-1], results.lines)
        dtypes = dict.fromkeys(line.dtype for line in results.lines)
        handles = [Patch(color=_COLOURS.get(dtype, _OTHER_COLOUR), label=dtype) for dtype in dtypes]
        figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), frameon=False)
        figure.suptitle(f"{results.machine['processor']}, {results.machine['instruction_set']}", x=0.01, ha="left")
        with replaced(path) as aside:
            figure.savefig(aside, format="svg", metadata={"Date": None})


def _draw_panel(panel: Any, work: str, lines: Sequence[Line]) -> None:
    places = range(len(lines))
    panel.barh(
        places,
        [line.ratio - 1 for line in lines],
        left=1,
        height=0.72,
        color=[_COLOURS.get(line.dtype, _OTHER_COLOUR) for line in lines],
    )
    panel.hlines(
        places, [line.ratio_low for line in lines], [line.ratio_high for line in lines], color="black", linewidth=0.8
    )
    for place, line in zip(places, lines, strict=True):
        # Beside the bar, on the side that it does not come from.
        text = {"s": f"{line.ratio:.2f}x", "va": "center", "fontsize": 8}
        if line.ratio >= 1:
            panel.text(max(line.ratio, line.ratio_high) * 1.03, place, ha="left", **text)
        else:
            panel.text(1.03, place, ha="left", **text)
    several = len({line.peer for line in lines}) > 1
    labels = [
        ", ".join(filter(None, [line.shape, line.variant, f"against {line.peer}" if several else ""])) for line in lines
    ]
    panel.set_yticks(places, labels, fontsize=8)
    panel.set_ylim(len(lines) - 0.4, -0.6)  # the first row on top
    panel.set_title(work if several else f"{work}, against {lines[0].peer}", loc="left", fontsize=9, fontweight="bold")
    panel.axvline(1, color="black", linewidth=1)
    panel.grid(axis="x", alpha=0.3)
    panel.set_axisbelow(True)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.tick_params(axis="y", length=0)


def _scale(panel: Any, lines: Sequence[Line]) -> None:
    """A logarithmic axis, on which twice as fast and half as fast are equally far from 1."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low = min(1.0, *(min(line.ratio, line.ratio_low) for line in lines))
    high = max(2.0, *(max(line.ratio, line.ratio_high) for line in lines))
    panel.set_xscale("log", base=2)
    panel.set_xlim(low / 1.1, high * 1.5)  # the labels need room
    panel.xaxis.set_major_locator(FixedLocator([2.0**power for power in range(-6, 12)]))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    panel.set_xlabel("peer / ours; right of 1x fastbert is faster")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report of one run; returns the exit status."""
    parser = argparse.ArgumentParser(description="Draw the results of pytest benchmarks --benchmark-json=FILE.")
    parser.add_argument("json", type=Path, help="what --benchmark-json wrote")
    parser.add_argument("--output", type=Path, default=RESULTS, help="directory of the report (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        paths = write(read(options.json), options.output)
    except (OSError, ValueError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    print("\n".join(str(path) for path in paths))
    return 0


if __name__ == "__main__":
    sys.exit(main())
