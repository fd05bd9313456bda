#!/usr/bin/env python3
"""Grade a course with the model that a server runs, and compare with the teachers' marks.

examples:
  python eval_short_batched.py --list               the courses that are there
  python eval_short_batched.py -c EXAMPLE           grade all answers, ten at a time
  python eval_short_batched.py -c INT -n 2 -t 100   with three graded examples, faster
  python eval_short_batched.py -c INT --resume      go on with a run that was stopped
  python eval_short_batched.py --compare results/INT/M/verdict-0-v1 results/INT/M/verdict-1-v1
  python eval_short_batched.py --leaderboard        all runs in results beside each other
  python eval_short_batched.py -c EXAMPLE --url http://10.0.0.1:8000 --url http://10.0.0.2:8000
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from llmarking.datasets import finding as datasets
from llmarking.errors import InputError
from llmarking.evaluation import leaderboard
from llmarking.terminal import (
    EXIT_CODES,
    ExitCode,
    Terminal,
    add_grading_options,
    add_server_options,
    printable,
    run,
)

# What the original's -n means: zero-shot, one-shot, few-shot; and all there are.
SHOTS = {"0": 0, "1": 1, "2": 3, "all": None}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="eval_short_batched.py",
        description=__doc__,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        conflict_handler="resolve",
    )
    what = parser.add_argument_group("what to grade")
    what.add_argument("-c", "--course", metavar="COURSE", help="a course, by name or path")
    what.add_argument(
        "--data", metavar="FOLDER",
        help="where courses are (default: $LLMARKING_DATA, or what is beside the project)",
    )  # fmt: skip
    what.add_argument("--list", action="store_true", help="list the courses and end")
    what.add_argument(
        "--limit", type=_count, metavar="N", help="answers to each question (default: all)"
    )
    what.add_argument(
        "--seed", type=int, default=0, metavar="N",
        help="draws the answers of --limit, and the intervals (default: 0)",
    )  # fmt: skip
    how = parser.add_argument_group("how")
    how.add_argument(
        "-n", choices=SHOTS, default="0",
        help="graded examples the model sees: 0 none, 1 one, 2 three, all (default: 0)",
    )  # fmt: skip
    add_grading_options(how)
    how.add_argument(
        "-t", "--threads", type=_count, default=10, metavar="N",
        help="answers asked for at once (default: 10)",
    )  # fmt: skip
    result = parser.add_argument_group("the result")
    result.add_argument(
        "--out", default="results", metavar="FOLDER", help="where it goes (default: results)"
    )
    result.add_argument(
        "--no-plots",
        action="store_true",
        help="neither plots nor an HTML page: quicker",
    )
    result.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    result.add_argument(
        "--json", action="store_true",
        help="one JSON object on standard output, all else on standard error",
    )  # fmt: skip
    kept = parser.add_argument_group("runs that are there")
    kept.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="the differences of two runs' folders, paired",
    )
    kept.add_argument(
        "--leaderboard", action="store_true", help="all runs below --out beside each other"
    )
    add_server_options(parser)
    parser.add_argument(
        "--url", action="append",
        help="where a server is; several share the work "
        "(default: $LLMARKING_URL or http://127.0.0.1:8000)",
    )  # fmt: skip
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run with these arguments, or the command line's; return the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    terminal = Terminal(color=not args.no_color)
    given = [args.course is not None, args.list, args.compare is not None, args.leaderboard]
    if sum(given) != 1:
        parser.error("one of -c COURSE, --list, --compare A B and --leaderboard is needed")

    def body() -> int:
        if args.list:
            _print_courses(terminal, datasets.available(args.data), as_json=args.json)
            return ExitCode.OK
        if args.leaderboard:
            return _leaderboard(terminal, Path(args.out), as_json=args.json)
        try:
            # Metrics need numpy and scikit-learn, which an install of the client alone lacks.
            from llmarking.evaluation import comparing
            from llmarking.evaluation.run import Evaluation, EvaluationSettings
        except ModuleNotFoundError as error:
            raise InputError(f"{error.name} is missing; pip install 'llmarking[eval]'") from None
        if args.compare:
            first, second = (comparing.Run.of(Path(path)) for path in args.compare)
            result = comparing.compare(first, second, seed=args.seed)
            if args.json:
                terminal.write(comparing.as_json(result))
            else:
                comparing.print_comparison(terminal.out, result)
            return ExitCode.OK
        if args.prompt_version is not None:
            terminal.note("-p has no effect: the server's prompt version is used, and written down")
        course = datasets.load(args.course, args.data)
        for note in course.notes:
            terminal.note(f"{course.name}: {note}")
        settings = EvaluationSettings(
            urls=tuple(args.url or ()),
            api_key=args.api_key,
            in_flight=args.threads,
            shots=SHOTS[args.n],
            method=args.method,
            adapter=args.adapter,
            limit=args.limit,
            seed=args.seed,
            resume=args.resume,
            out=Path(args.out),
            as_json=args.json,
            plots=not args.no_plots,
            command=_command(args),
        )
        return Evaluation(settings, course, terminal).run()

    return run("eval_short_batched.py", body)


def _print_courses(terminal: Terminal, entries: Sequence[datasets.Entry], *, as_json: bool) -> None:
    if as_json:
        courses = [{"name": e.name, "source": e.source, "path": str(e.path)} for e in entries]
        terminal.write(json.dumps({"courses": courses}, ensure_ascii=False) + "\n")
        return
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        terminal.write(printable(f"{entry.name:<{width}}  {entry.source}") + "\n")


def _leaderboard(terminal: Terminal, folder: Path, *, as_json: bool) -> int:
    runs = leaderboard.entries(folder)
    others = folder / leaderboard.OTHERS
    known = leaderboard.read_others(others) if others.exists() else leaderboard.NOBODY
    page = leaderboard.page(runs, known, Path.cwd())
    terminal.write(leaderboard.as_json(runs) if as_json else page)
    return ExitCode.OK


def _command(args: argparse.Namespace) -> str:
    """The command that repeats the run, without addresses and keys."""
    words = ["python", "eval_short_batched.py", "-c", args.course, "-n", args.n]
    words += ["--method", args.method, "--seed", str(args.seed)]
    for flag in ("data", "adapter", "limit"):
        if (value := getattr(args, flag)) is not None:
            words += [f"--{flag}", str(value)]
    return shlex.join(words)


if __name__ == "__main__":
    sys.exit(main())
