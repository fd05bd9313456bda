#!/usr/bin/env python3
"""Check what the documents promise: links and headings that exist, commands that can be run.

In every tracked Markdown file, relative links must lead somewhere, `make` must be given targets of
the Makefile, `python` scripts that exist, and those only flags that their --help names. Decimals in
the tables of a section that names files in results/ must be in one of those, but for ratios.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(<?([^)\s>]+)>?\)|!\[[^\]]*\]\(<?([^)\s>]+)>?\)")
FENCE = re.compile(r"^ *(```|~~~)[^\n]*\n(.*?)^ *\1", re.DOTALL | re.MULTILINE)
DECIMAL = re.compile(r"(?<![\w.])-?\d+\.\d+(?![\w.])")
COMMAND = re.compile(r"^(?:\$ )?(?:\w+=\S+ )*(make|python3?|\.venv/bin/python)\s+(.*)")


def documents() -> list[Path]:
    """Markdown files of ours: tracked, or all where there is no Git."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).exists()]
    return [path for path in ROOT.rglob("*.md") if ".venv" not in path.parts]


def anchors(text: str) -> set[str]:
    """The names that headings get on the usual forges."""
    headings = re.findall(r"^#+ +(.+?) *#*$", FENCE.sub("", text), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def broken_links(document: Path) -> Iterator[str]:
    text = document.read_text(encoding="utf-8")
    for match in LINK.finditer(re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))):
        link = match[1] or match[2]
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        if not target.exists():
            yield f"links to {link}, which does not exist"
        elif target.suffix == ".md" and anchor not in {"", *anchors(target.read_text("utf-8"))}:
            yield f"links to {link}, which has no such heading"


@cache
def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


@cache
def help_of(script: Path) -> str:
    asked = subprocess.run(
        [sys.executable, script, "--help"], capture_output=True, text=True, cwd=ROOT
    )
    return asked.stdout


def wrong_commands(document: Path) -> Iterator[str]:
    for block in FENCE.finditer(document.read_text(encoding="utf-8")):
        for line in block[2].splitlines():
            match = COMMAND.match(line.strip())
            if match is None:
                continue
            program, rest = match.groups()
            words = re.split(r"\s#|\||&|;|>", rest)[0].split()
            if program == "make":
                for word in words:
                    if re.fullmatch(r"[a-z]+", word) and word not in make_targets():
                        yield f"says `make {word}`, which the Makefile has not"
            elif words and words[0].endswith(".py"):
                script = ROOT / words[0]
                if not script.exists():
                    yield f"says `python {words[0]}`, which does not exist"
                    continue
                for flag in re.findall(r"(?<=\s)--?[a-zA-Z][\w-]*", " " + " ".join(words[1:])):
                    # The server hands flags it does not know to vLLM.
                    if flag not in help_of(script) and script.name != "vllm_server.py":
                        yield f"says `{words[0]} {flag}`, which its --help does not name"


def unknown_figures(document: Path) -> Iterator[str]:
    """Decimals in tables that are in no result file that their section names.

    A section that names none is held against those that the document names before its sections. A
    page that a program wrote is left to the tests of that program.
    """
    text = document.read_text(encoding="utf-8")
    if "<!-- Written by" in text:
        return
    parts = re.split(r"^(?=#+ )", FENCE.sub("", text), flags=re.MULTILINE)
    whole = [path for part in parts[:2] for path in results_named(part)]
    for part in parts:
        paths = tuple(results_named(part) or whole)
        if not paths:
            continue
        head: list[str] = []
        for line in part.splitlines():
            cells = line.strip().strip("|").split("|") if line.startswith("|") else []
            head = (head or cells) if cells else []
            for title, cell in zip(head, cells, strict=False):
                # A ratio follows from two figures beside it.
                for figure in [] if "×" in title or " / after" in title else DECIMAL.findall(cell):
                    if not is_known(figure, "%" in cell, paths):
                        yield f"says {figure} in a table, which is not in {', '.join(paths)}"


def results_named(text: str) -> list[str]:
    """Files and folders in results/ that a text names, if they are there."""
    found = re.findall(r"results/[\w./+-]*\w", text)
    return [path for path in dict.fromkeys(found) if (ROOT / path).exists()]


def is_known(figure: str, share: bool, paths: tuple[str, ...]) -> bool:
    """Whether a number in the files, rounded, is this figure; in per cent where `share` is set."""
    places, value = len(figure.partition(".")[2]), float(figure)
    return any(
        abs(number * scale - value) <= 0.5 * 10**-places + 1e-9
        for path in paths
        for number in numbers_in(path)
        for scale in ((1, 100) if share else (1,))
    )


@cache
def numbers_in(path: str) -> frozenset[float]:
    """Every number in the JSON files at a path."""
    files = [ROOT / path] if (ROOT / path).is_file() else sorted((ROOT / path).rglob("*.json"))
    return frozenset(n for file in files for n in _numbers(json.loads(file.read_text("utf-8"))))


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _numbers(inner)
    elif isinstance(value, int | float):
        yield float(value)


def main() -> int:
    wrong = [
        f"{document.relative_to(ROOT)} {fault}"
        for document in documents()
        for check in (broken_links, wrong_commands, unknown_figures)
        for fault in check(document)
    ]
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
