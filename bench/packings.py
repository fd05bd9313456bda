#!/usr/bin/env python
"""Ways to pack the points of an answer, and to word what is asked, beside each other.

Read with transformers, on a GPU where there is one. Every packing with 0, 1 and 3 graded examples,
and with the shipped packing every wording without examples: the bare model, and with `--train` the
model after a short LoRA training in that packing. All packings see the same answers, examples and
points in the same steps from the same weights; only the tokens around them differ.

    python bench/packings.py --courses INT CPT --train 5 --out packings.json
    python bench/packings.py --packings only,each-text --courses INT CPT --out part2.json
    python bench/packings.py --page part1.json part2.json

What is trained on is data/training unless `--data` names courses; the tested courses must not be
among them. Nothing that ships is chosen by these figures on INT or CPT.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from bench.evaluate_adapter import PLAIN, figures, groups_of
from bench.packing_page import Cell, page
from bench.packing_prompts import PACKINGS, SHIPPED, WORDINGS, Packer, Packing, Wording, computed
from llmarking.datasets import finding as datasets
from llmarking.engines.tokenizing import HubTokenizer
from llmarking.errors import InputError, TrainingDiverged
from llmarking.models import catalogue, hub
from llmarking.training import (
    data as training_data,
    model as training_model,
    output as training_output,
)
from llmarking.training.data import Balance, Group
from llmarking.training.model import Readout, collate, read_odds, readouts
from llmarking.training.rows import Mixer, Renderer, Row, batches
from llmarking.training.run import manipulations
from llmarking.training.settings import TrainingSettings

OWN_DATA = Path(__file__).resolve().parents[1] / "data" / "training"
SHOTS = (0, 1, 3)
CHUNKS_PER_STEP = 3


@dataclass(frozen=True, slots=True)
class Course:
    """A course to test on: its groups, and the verdicts that no model is asked about."""

    name: str
    groups: tuple[Group, ...]
    empty: tuple[Readout, ...]


def course(name: str, limit: int | None) -> Course:
    """A course with at most `limit` answers to every question."""
    found, empty = groups_of(datasets.load(name))
    groups = tuple(replace(group, answers=group.answers[:limit]) for group in found)
    return Course(name, groups, tuple(empty) if limit is None else ())


def read(
    model: Any, packer: Packer, groups: Sequence[Group], shots: int, device: str, batch_tokens: int
) -> tuple[list[Readout], int]:
    """Every verdict of some groups, and the prompt tokens behind the shared heads.

    Where earlier verdicts stand in the prompt, they are the model's own: point after point is read.

    Raises:
        InputError: a log-odds is not a number.
    """
    found: list[Readout] = []
    rows: list[Row] = []
    own: dict[tuple[str, str], list[bool]] = {}
    while True:
        shown = own if packer.packing.earlier == "verdict" else None
        new = [row for group in groups for row in packer.rows(group, shots, shown=shown)]
        got = readouts(model, new, packer.token_ids, device, batch_tokens)
        if not all(math.isfinite(r.odds) for r in got):
            raise InputError(
                f"{packer.packing.name}: the model returned log-odds that are no number"
            )
        found += got
        rows += new
        for r in got:
            own.setdefault((r.group, r.answer), []).append(r.odds > 0)
        if shown is None or not new:
            return found, computed(rows)


class Drawing(Renderer):
    """Keeps what a `Mixer` draws in place of rendering it, for every packing to render."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.drawn: list[tuple[Group, int, Balance | None, frozenset[int]]] = []

    def rows(
        self,
        group: Group,
        shots: int,
        per_row: int,
        weigh: Balance | None = None,
        decoys: frozenset[int] = frozenset(),
    ) -> list[Row]:
        """Remember the group; there are no rows yet."""
        self.drawn.append((group, shots, weigh, decoys))
        return []


Steps = list[list[tuple[Group, int, Balance | None, frozenset[int]]]]


def steps_of(names: Sequence[str], tokenizer: HubTokenizer, settings: TrainingSettings) -> Steps:
    """What is trained on in every step, the same for all packings."""
    train = training_data.groups(training_data.load(names))
    steps: Steps = []
    for epoch in range(int(settings.epochs)):
        drawing = Drawing(tokenizer, settings.max_tokens)
        weigh = training_data.balance(train)
        Mixer(train, drawing, settings, weigh, manipulations()).epoch(epoch)
        random.Random(f"{settings.seed}/steps/{epoch}").shuffle(drawing.drawn)
        steps += [
            drawing.drawn[start : start + CHUNKS_PER_STEP]
            for start in range(0, len(drawing.drawn), CHUNKS_PER_STEP)
        ]
    return steps


def train(model: Any, packer: Packer, steps: Steps, settings: TrainingSettings, device: str) -> int:
    """Train LoRA layers on the verdicts of every step; returns how many steps were made.

    Raises:
        TrainingDiverged: the loss or a gradient is not a number.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=settings.weight_decay
    )
    warm = max(1, round(settings.warmup * len(steps)))

    def rate(step: int) -> float:
        done = (step - warm) / max(1, len(steps) - warm)
        return (step + 1) / warm if step < warm else 0.05 + 0.475 * (1 + math.cos(math.pi * done))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    started = time.monotonic()
    limit = (settings.minutes or math.inf) * 60
    model.train()
    for number, drawn in enumerate(steps, start=1):
        rows = [
            row
            for group, shots, weigh, decoys in drawn
            for row in packer.rows(group, shots, weigh, decoys)
        ]
        loss = _gradients(model, rows, packer.token_ids, settings.batch_tokens, device)
        norm = float(torch.nn.utils.clip_grad_norm_(weights, 1.0))
        if not math.isfinite(loss + norm):
            raise TrainingDiverged(
                f"{packer.packing.name}: loss {loss}, gradient {norm} at step {number}"
            )
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        spent = time.monotonic() - started
        if number == 1 or number % 10 == 0 or number == len(steps):
            print(
                f"  step {number}/{len(steps)}: loss {loss:.4f}, gradient {norm:.2f}, "
                f"{sum(row.length for row in rows)} tokens, {spent:.0f} s",
                flush=True,
            )
        if spent > limit and number < len(steps):
            print(f"  the time is over after step {number} of {len(steps)}", flush=True)
            return number
    return len(steps)


def _gradients(
    model: Any, rows: Sequence[Row], token_ids: tuple[int, int], batch_tokens: int, device: str
) -> float:
    """Add the gradients of one step up over as many batches as its rows need; returns the loss."""
    total = sum(weight for row in rows for segment in row.segments for weight in segment.weights)
    whole = 0.0
    for batch in batches(rows, batch_tokens):
        tensors = {name: tensor.to(device) for name, tensor in collate(batch).items()}
        each = torch.nn.functional.binary_cross_entropy_with_logits(
            read_odds(model, tensors, token_ids), tensors["truth"], reduction="none"
        )
        loss = (each * tensors["weight"]).sum() / total
        loss.backward()
        whole += loss.item()
    return whole


class Bench:
    """One model, the courses to test on, and the cells so far in a file."""

    def __init__(self, args: argparse.Namespace) -> None:
        spec = catalogue.resolve(args.model)
        self.folder = Path(args.weights) if args.weights else hub.fetch(spec).path
        self.device: str = args.device or training_model.default_device()
        self.tokenizer = HubTokenizer.from_folder(self.folder)
        self.courses = [course(name, args.limit) for name in args.courses]
        self.shots: Sequence[int] = args.shots
        self.batch_tokens: int = args.batch_tokens
        self.out: Path | None = args.out
        self.cells: list[Cell] = []
        self.about: dict[str, Any] = {
            "model": spec.name,
            "device": torch.cuda.get_device_name() if self.device != "cpu" else "cpu",
            "versions": training_output.installed(),
        }

    def base(self) -> Any:
        """The bare model."""
        return training_model.load_base(self.folder, self.device)

    def measure(
        self, model: Any, packing: Packing, wording: Wording, shots: Sequence[int], steps: int
    ) -> None:
        """Add the cells of all courses, and print them."""
        packer = Packer(self.tokenizer, packing, wording)
        for tested in self.courses:
            most = min(len(group.question.examples) for group in tested.groups)
            for number in [n for n in shots if n <= most]:
                started = time.monotonic()
                found, tokens = read(
                    model, packer, tested.groups, number, self.device, self.batch_tokens
                )
                numbers = figures([*found, *tested.empty], PLAIN)
                answers = sum(len(group.answers) for group in tested.groups)
                cell = Cell(
                    tested.name, packing.name, wording.name, number, steps, answers,
                    numbers["verdicts"], round(tokens / answers, 1), numbers["raw"]["kappa"],
                    numbers["left_out"]["kappa"], numbers["auc"], numbers["left_out"]["ece"],
                )  # fmt: skip
                self.cells.append(cell)
                print(
                    f"{cell.course:<8} {cell.packing:<12} {cell.wording:<10} {cell.shots} "
                    f"examples, {cell.steps:>3} steps: kappa raw {cell.raw:.3f}, "
                    f"left out {cell.kappa:.3f}, auc {cell.auc:.3f}, "
                    f"ece {cell.ece:.3f}, {cell.tokens} tokens an answer "
                    f"({time.monotonic() - started:.0f} s)",
                    flush=True,
                )
        self.save()

    def save(self) -> None:
        """Write the file anew."""
        if self.out:
            content = {**self.about, "cells": [asdict(cell) for cell in self.cells]}
            self.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def run(args: argparse.Namespace) -> None:
    """Measure what was asked for."""
    packings = [_of(PACKINGS, name) for name in args.packings.split(",")]
    wordings = [_of(WORDINGS, name) for name in args.wordings.split(",") if name]
    settings = TrainingSettings(
        rank=16, learning_rate=args.learning_rate, epochs=args.epochs, repeat_points=1,
        minutes=args.train, batch_tokens=args.train_batch_tokens, seed=args.seed,
    )  # fmt: skip
    bench = Bench(args)
    print(json.dumps(bench.about), flush=True)
    if not args.only_trained:
        model = bench.base().eval()
        for packing in packings:
            bench.measure(model, packing, SHIPPED, bench.shots, 0)
        for wording in wordings:
            bench.measure(model, PACKINGS["pass-text"], wording, [0], 0)
        del model
    if not args.train:
        return
    names = args.data or [str(path) for path in sorted(OWN_DATA.glob("part_*.json"))]
    if set(names) & set(args.courses):
        raise InputError("--data and --courses: a course that is tested may not be trained on")
    steps = steps_of(names, bench.tokenizer, settings)
    if args.max_steps:
        steps = steps[: args.max_steps]
    bench.about["training"] = {
        "data": [Path(name).stem for name in names], "steps": len(steps), "rank": settings.rank,
        "learning_rate": settings.learning_rate, "epochs": settings.epochs, "seed": settings.seed,
    }  # fmt: skip
    for packing in packings:
        # The same first weights and the same dropout for all.
        torch.manual_seed(settings.seed)
        model = training_model.add_lora(bench.base(), settings, checkpointing=True)
        packer = Packer(bench.tokenizer, packing)
        print(f"{packing.name}: {packing.title}", flush=True)
        made = train(model, packer, steps, settings, bench.device)
        bench.measure(model, packing, SHIPPED, bench.shots, made)
        del model


def _of(known: Mapping[str, Any], name: str) -> Any:
    if name not in known:
        raise InputError(f"there is no {name!r}; there are: {', '.join(known)}")
    return known[name]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model", default=catalogue.default_model().name)
    parser.add_argument("--weights", help="where that model's files are, instead of the cache")
    parser.add_argument("--courses", nargs="+", default=["INT", "CPT"])
    parser.add_argument("--limit", type=int, help="so many answers to a question at most")
    parser.add_argument("--shots", nargs="+", type=int, default=list(SHOTS), choices=SHOTS)
    parser.add_argument("--packings", default=",".join(PACKINGS), metavar="A,B")
    parser.add_argument(
        "--wordings", default=",".join(n for n in WORDINGS if n != SHIPPED.name), metavar="A,B",
        help="beside the shipped one; '' for none",
    )  # fmt: skip
    parser.add_argument("--train", type=float, metavar="MINUTES", help="at most, for each packing")
    parser.add_argument("--only-trained", action="store_true", help="leave out the bare model")
    parser.add_argument("--data", nargs="+", help="courses to train on")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch-tokens", type=int, default=16384, help="of reading")
    parser.add_argument("--train-batch-tokens", type=int, default=6144)
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path, help="a JSON file for the cells")
    parser.add_argument("--page", type=Path, nargs="+", metavar="FILE", help="print tables, end")
    args = parser.parse_args()
    if args.page:
        print("\n".join(page(args.page)))
        return 0
    run(args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
