"""The files that a run is read from: Markdown, plots, and an HTML page that needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jinja2

from llmarking import __version__
from llmarking.evaluation import report
from llmarking.sentences import counted

TEMPLATE = "report.html.jinja"


class Folder(Protocol):
    """Where the files go."""

    def write(self, name: str, content: str) -> None: ...


def write(
    folder: Folder, run: Mapping[str, Any], metrics: Mapping[str, Any], *, plots: bool
) -> None:
    """Write `report.md` and, with plots, `plots/*.svg` and `report.html`."""
    if not plots:
        folder.write("report.md", report.markdown(run, metrics))
        return
    # It takes a second to load, and nothing else needs it.
    from llmarking.evaluation.plots import CAPTIONS, draw

    drawn = draw(metrics)
    captions = {name: CAPTIONS[name] for name in drawn}
    for name, image in drawn.items():
        folder.write(f"plots/{name}.svg", image)
    folder.write("report.md", report.markdown(run, metrics, captions))
    folder.write("report.html", page(run, metrics, drawn, captions))


def page(
    run: Mapping[str, Any],
    metrics: Mapping[str, Any],
    plots: Mapping[str, str],
    captions: Mapping[str, str],
) -> str:
    """The report as one HTML file, with the plots in it.

    Args:
        plots, captions: SVG and a sentence by the same names.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        title=report.title(run),
        headline=report.headline(metrics),
        legend=report.LEGEND,
        levels=list(report.levels(metrics)),
        details=list(report.details(metrics)),
        plots=[(name, captions[name], _address(image)) for name, image in plots.items()],
        failed=metrics["failed"],
        about=list(_about(run)),
        command=run["command"],
        version=__version__,
    )


def _address(image: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(image.encode()).decode()


def _about(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What was run, as names and values."""
    for name, value in run["configuration"].items():
        yield name.replace("_", " "), _plain(value)
    yield "answers", str(run["answers"])
    yield "limit", _plain(run["limit"])
    yield "measured with", _plain(run["versions"])
    for card in run["servers"]:
        yield "served with", _plain(card["versions"])
    for session in run["sessions"]:
        answers = counted(session["answers"], "answer", "answers")
        began, ended = session["began"], session["ended"]
        if ended is None:
            yield "graded", f"{answers} from {began} on, until it was killed"
        else:
            yield "graded", f"{answers} in {session['seconds']:.0f} s, {began} to {ended}"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {inner}" for name, inner in value.items())
    return "none" if value is None else str(value)
