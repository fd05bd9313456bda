#!/usr/bin/env python3
"""Try an answer against a question and see which points it earns, and why.

examples:
  python student_entry.py                        walk through the shipped questions and answers
  python student_entry.py -n 0                   choose a question, type an answer
  python student_entry.py --list                 the questions of the shipped course
  python student_entry.py -n 2 --question COM001 --answer "It halves the list each time."
  python student_entry.py --question COM001 < answer.txt
  python student_entry.py --examples --limit 1   walk through the shipped answers
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from llmarking.client import Client
from llmarking.console.feedback import print_questions
from llmarking.console.student import Student, StudentSettings
from llmarking.datasets import courses
from llmarking.errors import InputError
from llmarking.terminal import (
    EXIT_CODES,
    ExitCode,
    Terminal,
    add_grading_options,
    add_server_options,
    read_stdin,
    run,
)

# What the original's -n means: zero-shot, one-shot, few-shot.
SHOTS = {0: 0, 1: 1, 2: 3}


def _parser() -> argparse.ArgumentParser:
    defaults = StudentSettings()
    parser = argparse.ArgumentParser(
        prog="student_entry.py",
        description=__doc__,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what to grade")
    what.add_argument("--question", metavar="CODE", help="the question (default: choose, or all)")
    what.add_argument("--answer", metavar="TEXT", help="the answer; - reads standard input")
    what.add_argument("--examples", action="store_true", help="walk through the course's answers")
    what.add_argument(
        "--limit", type=_count, default=defaults.limit, metavar="N",
        help="with --examples: answers to each question (default: %(default)s)",
    )  # fmt: skip
    what.add_argument("--list", action="store_true", help="list the questions and end")
    what.add_argument(
        "--course", metavar="FILE", help="a course in JSON (default: the shipped one)"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "-n", type=int, choices=SHOTS, default=0,
        help="graded examples the model sees: 0 none, 1 one, 2 three (default: 0)",
    )  # fmt: skip
    add_grading_options(how)
    how.add_argument("--no-explain", action="store_true", help="no evidence and reasons: faster")
    shown = how.add_mutually_exclusive_group()
    shown.add_argument(
        "-s", "--stream", action=argparse.BooleanOptionalAction, default=defaults.stream,
        help="print points as they are decided (default)",
    )  # fmt: skip
    shown.add_argument("--json", action="store_true", help="print one JSON object")
    add_server_options(parser)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run with these arguments, or the command line's; return the exit status."""
    parser = _parser()
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    terminal = Terminal(color=not args.no_color)
    if args.answer is not None and args.question is None:
        parser.error("--answer needs --question: which one does it answer?")
    if args.answer is not None and args.examples:
        parser.error("--examples brings its own answers; leave --answer out")
    talks = bool(argv) and terminal.interactive and args.answer is None and not args.examples
    if args.json and talks and not args.list:
        parser.error("--json needs --answer or --examples")
    settings = StudentSettings(
        examples=SHOTS[args.n],
        method=args.method,
        adapter=args.adapter,
        explain=not args.no_explain,
        stream=args.stream,
        limit=args.limit,
        as_json=args.json,
    )

    def body() -> int:
        course = courses.read(args.course) if args.course else courses.example_course()
        if args.list:
            print_questions(terminal.out, course.questions, as_json=args.json)
            return ExitCode.OK
        if args.prompt_version is not None:
            terminal.note("-p has no effect: the server's prompt version is used, and shown")
        question = course.question(args.question) if args.question else None
        answer = _given_answer(args, talks)
        if not argv and terminal.interactive:
            terminal.note("These are examples; -n 0 lets you choose a question and type an answer.")
        with Client(args.url, args.api_key, sleep=terminal.pause) as client:
            student = Student(client, terminal, course, settings)
            if question and answer is not None:
                return student.one(question, answer)
            return student.talk(question) if talks else student.walk(question)

    return run("student_entry.py", body)


def _given_answer(args: argparse.Namespace, talks: bool) -> str | None:
    """The answer from --answer or a pipe; None if the user or the course has to bring it."""
    if args.answer is not None and args.answer != "-":
        return str(args.answer)
    if talks or args.examples or args.question is None:
        return None
    piped = read_stdin()
    if args.answer is None and not piped.strip():
        raise InputError(
            "standard input holds no answer; give --answer TEXT, or --examples for the course's own"
        )
    return piped


if __name__ == "__main__":
    sys.exit(main())
