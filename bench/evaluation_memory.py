"""An evaluation of 10,000 answers: `python -m bench.evaluation_memory [--answers N …]`.

Runs `eval_short_batched.py` as it comes, on the example course's answers over and over, against a
server without a model. Prints one JSON object: for every size the highest resident memory of the
evaluation's process in MiB, metrics, report and plots included, and its seconds.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.big_class import ready
from bench.crash_jobs import ROOT, Server

# Not ru_maxrss: that survives exec, and would be the peak of whoever started it.
PROGRAM = r"""
import pathlib, re, runpy, sys
sys.argv.pop(0)
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    status = pathlib.Path("/proc/self/status").read_text()
    print("PEAK", re.search(r"VmHWM:\s+(\d+) kB", status)[1])
"""


def course_of(size: int) -> dict[str, Any]:
    """The example course, its answers repeated under ids of their own until there are `size`."""
    course: dict[str, Any] = json.loads((ROOT / "data/examples/course.json").read_text("utf-8"))
    questions = course["questions"]
    for number, question in enumerate(questions):
        given = question["answers"]
        wanted = size // len(questions) + (number < size % len(questions))
        question["answers"] = [
            {**given[i % len(given)], "id": f"{question['code']}-{i:05d}"} for i in range(wanted)
        ]
    return course


def peak(size: int, url: str, folder: Path) -> float:
    """MiB that an evaluation of so many answers takes at most; leaves its result in `folder`.

    Raises:
        subprocess.CalledProcessError: it did not end well.
    """
    folder.mkdir(parents=True)
    (folder / "course.json").write_text(json.dumps(course_of(size)), "utf-8")
    args = ["-c", str(folder / "course.json"), "--out", str(folder / "out"), "--url", url]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "eval_short_batched.py", *args, "-t", "50"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    found = re.search(r"^PEAK (\d+)$", done.stdout, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Start a server, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, nargs="+", default=[140, 10_000])
    options = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = Server(f"sqlite:///{folder / 'llmarking.db'}", "scripted", folder)
        server.start()
        try:
            ready(server)
            for size in options.answers:
                began = time.monotonic()
                most = peak(size, server.url, folder / str(size))
                seconds = time.monotonic() - began
                rows.append(
                    {"answers": size, "peak_mib": round(most), "seconds": round(seconds, 1)}
                )
        finally:
            server.kill()
    print(json.dumps({"python": platform.python_version(), "runs": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
