#!/usr/bin/env python3
"""Train a LoRA adapter on graded answers, so that a model marks as the teacher does.

examples:
  python finetune.py --data my_course.json --out adapters/biology
  python finetune.py -m 0 --qlora --data my_course.json --out adapters/biology
  python finetune.py --data my_course.json --out adapters/biology --resume
  python finetune.py --course ID --out adapters/biology          from what a teacher confirmed
  python vllm_server.py --adapter biology=adapters/biology       serve the result
  python finetune.py --course ID --out adapters/biology --promote
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llmarking.client import AsyncClient, Client
from llmarking.errors import InputError
from llmarking.models import adapters, catalogue
from llmarking.models.adapters import Adapter
from llmarking.models.catalogue import ModelSpec
from llmarking.terminal import EXIT_CODES, ExitCode, Terminal, add_server_options, run
from llmarking.training.data import Group
from llmarking.training.settings import TrainingSettings

DEFAULTS = TrainingSettings()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="finetune.py",
        description=__doc__,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what to train on")
    what.add_argument(
        "--data", nargs="+", default=[], metavar="COURSE",
        help="courses with verdicts, by name or path, in any form eval_short_batched.py reads",
    )  # fmt: skip
    what.add_argument(
        "--course", metavar="ID",
        help="a course on the server: the answers that a teacher confirmed or changed",
    )  # fmt: skip
    what.add_argument(
        "--data-root", metavar="FOLDER", help="where courses are (default: $LLMARKING_DATA)"
    )
    what.add_argument(
        "--held-out", type=_share, default=DEFAULTS.held_out, metavar="SHARE",
        help="of every course's questions, never trained on (default: %(default)s)",
    )  # fmt: skip
    what.add_argument(
        "--validation", nargs="+", default=[], metavar="COURSE",
        help="courses that are held out whole, in place of a share of each (--held-out)",
    )  # fmt: skip
    what.add_argument(
        "--leave-out", nargs="+", default=[], metavar="COURSE",
        help="courses whose questions are neither trained on nor held out, wherever else they "
        "stand: for a calibration or a test afterwards",
    )  # fmt: skip
    what.add_argument(
        "--shots", type=_mix, default=None, metavar="N:SHARE,…",
        help="shares of prompts with N graded examples (default: 0:0.6,1:0.2,3:0.2)",
    )  # fmt: skip
    model = parser.add_argument_group("the model")
    model.add_argument(
        "-m", "--model", default=catalogue.default_model().name,
        help="index, name, hub id, or a folder with weights (default: %(default)s)",
    )  # fmt: skip
    model.add_argument(
        "--weights", metavar="FOLDER", help="where that model's files are, instead of the cache"
    )
    kind = model.add_mutually_exclusive_group()
    kind.add_argument("--lora", action="store_true", help="the model in 16 bits; the default")
    kind.add_argument(
        "--qlora", action="store_true", help="the model in 4 bits: a third of the memory; GPU only"
    )
    model.add_argument(
        "--start", metavar="ADAPTER",
        help="go on from this adapter, a folder, or `shipped` for the one that comes with the "
        "model; its rank, scale, layers and dropout are kept (default: a fresh one)",
    )  # fmt: skip
    model.add_argument("--rank", type=_count, help=f"(default: {DEFAULTS.rank})")
    model.add_argument(
        "--alpha", type=_count, help="scale of the adapter (default: twice the rank)"
    )
    model.add_argument(
        "--targets", nargs="+", metavar="LAYER",
        help="layers that get an adapter (default: all linear ones)",
    )  # fmt: skip
    model.add_argument(
        "--prompt", metavar="VERSION",
        help="version of the verdict prompt to train (default: the newest)",
    )  # fmt: skip
    model.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--learning-rate", type=_positive, default=DEFAULTS.learning_rate, metavar="X",
        help="(default: %(default)s)",
    )  # fmt: skip
    how.add_argument(
        "--epochs", type=_positive, default=DEFAULTS.epochs, metavar="X",
        help="times through the data (default: %(default)s)",
    )  # fmt: skip
    how.add_argument(
        "--batch-tokens", type=_count, default=DEFAULTS.batch_tokens, metavar="N",
        help="tokens of a step: the memory goes with them (default: %(default)s)",
    )  # fmt: skip
    how.add_argument(
        "--max-tokens", type=_count, default=DEFAULTS.max_tokens, metavar="N",
        help="longest row; answers that need more are left out (default: %(default)s)",
    )  # fmt: skip
    how.add_argument(
        "--dropout", type=_share, metavar="SHARE", help=f"(default: {DEFAULTS.dropout})"
    )
    how.add_argument("--seed", type=int, default=DEFAULTS.seed, metavar="N")
    how.add_argument(
        "--patience", type=_count, default=DEFAULTS.patience, metavar="N",
        help="looks at the held-out questions without a lower loss before it ends early "
        "(default: %(default)s)",
    )  # fmt: skip
    how.add_argument(
        "--evaluations", type=_count, default=DEFAULTS.evaluations, metavar="N",
        help="looks at them in an epoch, each with a checkpoint (default: %(default)s)",
    )  # fmt: skip
    how.add_argument("--minutes", type=_positive, metavar="X", help="end within this time")
    how.add_argument(
        "--memory", type=_positive, metavar="GIB", help="use at most this (default: what is free)"
    )
    result = parser.add_argument_group("the result")
    result.add_argument(
        "--out", metavar="FOLDER", help="where the adapter goes; the folder's name is its name"
    )
    result.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    result.add_argument(
        "--no-calibration", action="store_true", help="fit no calibration on the held-out questions"
    )
    result.add_argument(
        "--promote", action="store_true",
        help="train nothing: make the adapter in --out the default of --course, if it beats the "
        "present one on questions it was not trained on, beyond the interval",
    )  # fmt: skip
    add_server_options(parser)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share: from 0 to below 1")
    return value


def _mix(text: str) -> dict[int, float]:
    mix: dict[int, float] = {}
    for part in text.split(","):
        shots, _, share = part.partition(":")
        if shots not in ("0", "1", "2", "3"):
            raise argparse.ArgumentTypeError(f"{part!r}: write N:SHARE with N from 0 to 3")
        mix[int(shots)] = _positive(share or "1")
    return mix


def _settings(args: argparse.Namespace) -> TrainingSettings:
    settings = TrainingSettings(
        quantize=args.qlora,
        rank=args.rank or DEFAULTS.rank,
        alpha=args.alpha,
        dropout=DEFAULTS.dropout if args.dropout is None else args.dropout,
        targets=tuple(args.targets or DEFAULTS.targets),
        prompt=args.prompt,
        learning_rate=args.learning_rate,
        epochs=args.epochs,
        batch_tokens=args.batch_tokens,
        max_tokens=args.max_tokens,
        seed=args.seed,
        held_out=args.held_out,
        evaluations=args.evaluations,
        patience=args.patience,
        minutes=args.minutes,
        memory_gib=args.memory,
    )
    return replace(settings, shot_mix=args.shots) if args.shots else settings


def _start(given: str, spec: ModelSpec) -> Adapter:
    """The adapter that is gone on from.

    Raises:
        InputError: there is none in the folder, or none ships with the model.
    """
    if given != "shipped":
        return adapters.read(Path(given).expanduser())
    found = adapters.shipped(spec)
    if found is None:
        raise InputError(f"--start shipped: no adapter comes with {spec.name}; name a folder")
    return found


async def _promote(
    args: argparse.Namespace, groups: Sequence[Group], terminal: Terminal
) -> ExitCode:
    from llmarking.training import promotion

    adapter = Path(args.out)
    left = promotion.unseen(groups, adapter)
    async with AsyncClient(args.url, args.api_key) as client:
        present = (await client.course(args.course)).default_adapter
        if present == adapter.name:
            raise InputError(f"{adapter.name} is the default of course {args.course} already")
        found = await promotion.compare(client, left, present, adapter.name)
        terminal.write(f"{found}\n")
        if not found.better:
            few = found.questions < promotion.FEWEST_QUESTIONS
            why = "too few questions to tell" if few else "not better beyond the interval"
            terminal.note(f"{why}: the default of course {args.course} stays as it is")
            return ExitCode.PARTIAL
        await client.change_course(args.course, default_adapter=adapter.name)
    terminal.note(f"{adapter.name} is the default of course {args.course} now")
    return ExitCode.OK


def main(argv: Sequence[str] | None = None) -> int:
    """Run with these arguments, or the command line's; return the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    terminal = Terminal(color=not args.no_color)
    words = sys.argv[1:] if argv is None else argv
    if not args.out or not (args.data or args.course):
        parser.error("--data COURSE (or --course ID) and --out FOLDER are needed")
    if args.promote and not args.course:
        parser.error("--promote needs --course ID: whose default it is to be")
    fixed = [f for f in ("rank", "alpha", "targets", "dropout") if getattr(args, f) is not None]
    if args.start and fixed:
        parser.error(f"--{fixed[0]} can't be chosen with --start: the adapter has it already")

    def body() -> int:
        try:
            from llmarking.training import (
                course as training_course,
                data as training_data,
                run as training,
            )
        except ModuleNotFoundError as error:
            raise InputError(f"{error.name} is missing; pip install 'llmarking[train]'") from None
        sources = training_data.load(args.data, args.data_root)
        if args.course:
            with Client(args.url, args.api_key) as client:
                sources.append(training_course.fetch(client, args.course))
        if args.promote:
            return asyncio.run(_promote(args, training_data.groups(sources), terminal))
        spec = catalogue.resolve(args.model)
        if args.weights:
            spec = replace(spec, path=catalogue.resolve(args.weights).path)
        start = _start(args.start, spec) if args.start else None
        request = training.Request(
            model=spec,
            base=spec.hub_id or spec.name,
            sources=sources,
            validation=training_data.load(args.validation, args.data_root),
            left_out=training_data.read(args.leave_out, args.data_root),
            start=start,
            settings=_settings(args),
            out=Path(args.out),
            command=shlex.join(["python", "finetune.py", *words]),
            resume=args.resume,
            calibrate=not args.no_calibration,
            device=None if args.device == "auto" else args.device,
        )
        training.finetune(request, terminal.note)
        terminal.note(f"done: {args.out} holds the adapter, README.md says how good it is")
        return ExitCode.OK

    return run("finetune.py", body)


if __name__ == "__main__":
    sys.exit(main())
