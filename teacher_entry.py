#!/usr/bin/env python3
"""Pages for teachers: upload a class, have it graded by the server, review, export.

examples:
  python teacher_entry.py                                  then open http://127.0.0.1:7860
  python teacher_entry.py --url http://gpu-box:8000 --port 8080
  LLMARKING_API_KEY=... python teacher_entry.py            the page asks for the key, too
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from llmarking.terminal import EXIT_CODES, ExitCode, add_server_options, run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="teacher_entry.py",
        description=__doc__,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="where the pages listen (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, default=7860, help="(default: %(default)s)")
    add_server_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run with these arguments, or the command line's; return the exit status."""
    args = _parser().parse_args(argv)
    key = args.api_key or os.environ.get("LLMARKING_API_KEY") or None

    def body() -> int:
        from llmarking.ui import app as ui  # brings gradio, which takes seconds

        ui.serve(args.url, key, args.host, args.port)
        return ExitCode.OK

    return run("teacher_entry.py", body)


if __name__ == "__main__":
    sys.exit(main())
