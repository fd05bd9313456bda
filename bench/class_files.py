#!/usr/bin/env python3
"""Time and memory of large class files: read, answers taken, and given back with marks.

Each file is made here and handled in a process of its own, so that memory is that of one file.

  python bench/class_files.py              all of them
  python bench/class_files.py rows         one of them
"""

from __future__ import annotations

import argparse
import io
import itertools
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from llmarking.datasets.contents import whole_question
from llmarking.tables import files as tables

WORDS = "Ice is less dense than liquid water, so it floats. "


def rows() -> tuple[bytes, str]:
    """200,000 answers of about 100 characters."""
    lines = (f'{n:07},Q1,"{WORDS * 2}",,\n' for n in range(200_000))
    return ("id,question_code,answer,mark,feedback\n" + "".join(lines)).encode(), "rows.csv"


def long_cells() -> tuple[bytes, str]:
    """40 cells of a megabyte that are not graded, beside short answers."""
    lines = (f'{n:07},Q1,"{WORDS}",,,"{"x" * 2**20}"\n' for n in range(40))
    head = "id,question_code,answer,mark,feedback,note\n"
    return (head + "".join(lines)).encode(), "long.csv"


def wide() -> tuple[bytes, str]:
    """5,000 students with 100 questions each, as Moodle writes responses."""
    head = "Email address,State,Completed,Grade/10.00," + ",".join(
        f"Response {n}" for n in range(1, 101)
    )
    line = "@school.example,Finished,2025,-," + ",".join(["less dense"] * 100) + "\n"
    return (head + "\n" + "".join(f"s{n}{line}" for n in range(5_000))).encode(), "wide.csv"


def sheet() -> tuple[bytes, str]:
    """A spreadsheet of 100,000 rows and 500,000 cells."""
    import openpyxl

    book = openpyxl.Workbook(write_only=True)
    page = book.create_sheet("Class")
    page.append(["id", "question_code", "answer", "name", "group"])
    for n in range(100_000):
        page.append([f"{n:07}", "Q1", f"{WORDS}{n}", "A. Student", "7b"])
    out = io.BytesIO()
    book.save(out)
    return out.getvalue(), "sheet.xlsx"


FILES: dict[str, Callable[[], tuple[bytes, str]]] = {
    "rows": rows,
    "long_cells": long_cells,
    "wide": wide,
    "sheet": sheet,
}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str) -> None:
    """Handle one file and print a line."""
    data, file = FILES[name]()
    before, times = _peak(), [time.perf_counter()]
    upload = tables.detect(data, file)
    times.append(time.perf_counter())
    count = max(1, len(upload.columns.items))
    asked = [whole_question(f"Q{n}", "Why?", ["less dense"], 2.0) for n in range(1, count + 1)]
    klass = tables.class_from(upload, upload.columns, asked)
    times.append(time.perf_counter())
    marking = tables.Marking(1.5, 2.0, {1: True}, "Point 1: 1.5 of 2")
    out = tables.export(upload, upload.columns, {a.place: marking for a in klass.answers})
    times.append(time.perf_counter())
    spans = [after - begun for begun, after in itertools.pairwise(times)]
    print(
        f"{name:12} {len(data) / 2**20:6.1f} MB in, {len(out.data) / 2**20:6.1f} MB out, "
        f"{len(klass.answers):7,} answers: read {spans[0]:5.2f} s, answers {spans[1]:5.2f} s, "
        f"given back {spans[2]:5.2f} s, peak {_peak():5.0f} MB of memory, {before:4.0f} MB before"
    )


def main() -> None:
    """Measure the files that are named, or all, each in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", choices=FILES, help="one of them (default: all)")
    name = parser.parse_args().name
    if name is not None:
        measure(name)
        return
    print(f"Python {platform.python_version()} on {platform.machine()}", flush=True)
    for name in FILES:
        subprocess.run([sys.executable, __file__, name], check=True)


if __name__ == "__main__":
    main()
