"""From graded answers to an adapter: what `finetune.py` does, in order.

Data is read and parted by question, rows are drawn for every step of the run, the memory is
reckoned up, the model is trained and its best weights are kept with a calibration for each number
of graded examples. torch and its company are imported when all that can be refused has been.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmarking.engines.tokenizing import HubTokenizer
from llmarking.errors import CalibrationError, InputError
from llmarking.grading.prompting import shot_name
from llmarking.metrics.agreement import to_json
from llmarking.models import adapters, hub
from llmarking.models.adapters import Adapter
from llmarking.models.catalogue import ModelSpec
from llmarking.sentences import counted
from llmarking.training import data as training_data, output as training_output
from llmarking.training.data import Group, Source, Split, question_key
from llmarking.training.memory import available_gib, plan, shape
from llmarking.training.rows import Mixer, Renderer, Row, batches
from llmarking.training.settings import TrainingSettings

if TYPE_CHECKING:
    from llmarking.training.loop import Plan

SHOTS = (0, 1, 3)
SIZE_LIMIT_MB = 40.0
MANIPULATIONS = Path(__file__).resolve().parents[2] / "data" / "training" / "manipulations.toml"
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to train, on what, and where the result goes.

    Attributes:
        base: the hub id that the adapter is for; the model's own unless it is given as a folder.
        validation: courses that are held out whole, in place of a share of each.
        left_out: courses whose questions are not looked at, in whatever course they stand.
        start: an adapter whose weights are trained further; its rank, scale and layers are kept.
        out: the folder of the result; its name is the adapter's.
        command: what repeats the run, for the card.
    """

    model: ModelSpec
    base: str
    sources: Sequence[Source]
    settings: TrainingSettings
    out: Path
    validation: Sequence[Source] = ()
    left_out: Sequence[Source] = ()
    start: Adapter | None = None
    command: str = ""
    resume: bool = False
    calibrate: bool = True
    keep_checkpoints: bool = False
    device: str | None = None


def finetune(request: Request, report: Report) -> dict[str, Any]:
    """Train an adapter; returns what `metrics.json` holds.

    Raises:
        InputError: the data, the settings or the folder won't do.
        NotEnoughMemory: told before anything is loaded.
        TrainingDiverged: the loss or a gradient became NaN.
    """
    parts = _parts(request)
    data = training_data.describe([*request.sources, *request.validation], parts)
    folder = hub.fetch(request.model)
    if request.start:
        request = replace(request, settings=_of_start(request, folder.path))
    settings = request.settings
    renderer = Renderer(
        HubTokenizer.from_folder(folder.path), settings.max_tokens, version=settings.prompt
    )
    checkpoints = _folder(request, data)
    steps, per_epoch = _steps(parts, renderer, settings)
    held = held_rows(parts.held, renderer, settings.seed)
    report(_summary(parts, steps, per_epoch, renderer))
    # On a machine with several GPUs one is used: the batches are small, and the Trainer would
    # otherwise copy the model to all of them.
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    from llmarking.training import loop as training_loop, model as training_model

    device = request.device or training_model.default_device()
    if settings.quantize:
        training_model.check_quantize(device)
    memory, where = available_gib(device, settings.memory_gib)
    lengths = [row.length for step in steps for row in step] + [row.length for row in held[0]]
    need = plan(shape(folder.path), settings, lengths, memory, where)
    report(f"memory: about {need}; {memory:.1f} GiB of {where} may be used")
    base = training_model.load_base(folder.path, device, quantize=settings.quantize)
    if request.start:
        model = training_model.go_on(base, request.start.path, checkpointing=need.checkpointing)
    else:
        model = training_model.add_lora(base, settings, checkpointing=need.checkpointing)
    todo = training_loop.Plan(
        steps=steps,
        per_epoch=per_epoch,
        held=[*held[0], *(r for r in held[max(held)] if r.kind == "points")],
        token_ids=renderer.token_ids,
    )
    log = training_loop.train(model, todo, settings, checkpoints, device, report)
    training_model.save(model, request.out, request.base)
    digest = training_output.shrink(request.out, renderer.version)
    results = _calibrated(request, model, todo, held, device, report, renderer.version)
    metrics = {
        "format": "llmarking-training/1",
        "model": request.model.name,
        "base": request.base,
        "base_files": folder.digest,
        "adapter": request.out.name,
        "adapter_sha256": digest,
        "start": _start(request),
        "prompt": f"verdict/zeroshot.{renderer.version}",
        "settings": _plain(settings),
        "data": data,
        "trained_questions": sorted({question_key(g.question) for g in parts.train}),
        "left_out_as_too_long": len(renderer.left_out),
        "steps": max((int(row["step"]) for row in log if "step" in row), default=0),
        "estimated_gib": round(need.total, 2),
        **_used(device),
        "versions": training_output.installed(),
        "held_out": results,
        "command": request.command,
    }
    _write(request, metrics, log, need.adapter_parameters)
    size = (request.out / training_output.WEIGHTS).stat().st_size / 1e6
    if size > SIZE_LIMIT_MB:
        report(f"the adapter has {size:.0f} MB; a lower --rank makes it smaller")
    if not request.keep_checkpoints:
        shutil.rmtree(checkpoints)
    return metrics


def _parts(request: Request) -> Split:
    groups = training_data.without(training_data.groups(request.sources), request.left_out)
    if request.validation:
        held = training_data.groups(request.validation)
        held = training_data.without(held, request.left_out)
        return training_data.apart(groups, held)
    settings = request.settings
    return training_data.split(groups, settings.held_out, settings.seed, settings.most_held)


def _of_start(request: Request, weights: Path) -> TrainingSettings:
    """The settings with what the adapter that is gone on from has fixed.

    Raises:
        InputError: it belongs to another model.
    """
    start = request.start
    assert start is not None
    bases = (request.base, request.model.name)
    adapters.check_fit(start, bases=bases, model=weights, max_rank=start.rank)
    config = json.loads((start.path / adapters.CONFIG).read_text(encoding="utf-8"))
    return replace(
        request.settings,
        rank=start.rank,
        alpha=int(config["lora_alpha"]),
        dropout=float(config.get("lora_dropout", 0.0)),
        targets=tuple(sorted(config["target_modules"])),
    )


def _start(request: Request) -> str | None:
    """Name and version of the adapter that a run goes on from."""
    return f"{request.start.name}@{request.start.version}" if request.start else None


def held_rows(held: Sequence[Group], renderer: Renderer, seed: int) -> dict[int, list[Row]]:
    """Rows of the held-out questions as they stand, for every number of graded examples."""
    rows: dict[int, list[Row]] = {}
    for shots in SHOTS:
        rng = random.Random(f"{seed}/held/{shots}")
        rows[shots] = [
            row
            for group in held
            if (wide := training_data.with_examples(group, shots, rng)) is not None
            for row in renderer.rows(wide, shots, per_row=8)
        ]
    return rows


def _folder(request: Request, data: list[dict[str, object]]) -> Path:
    """The folder for checkpoints, with what the run is, so that only the same run goes on in it."""
    checkpoints = request.out / "checkpoints"
    # How long it may take and how much memory it may use is not what is trained.
    settings = replace(request.settings, minutes=None, memory_gib=None)
    run = {
        "model": request.model.name,
        "start": _start(request),
        "settings": _plain(settings),
        "data": data,
    }
    note = checkpoints / "run.json"
    if note.exists():
        if not request.resume:
            raise InputError(
                f"{request.out} holds a run that did not end; --resume goes on with it, or name "
                "another folder with --out"
            )
        if note.read_text(encoding="utf-8") != training_output.as_json(run):
            raise InputError(
                f"{request.out} holds a run with another model, other data or settings; name "
                "another folder with --out"
            )
    elif (request.out / training_output.WEIGHTS).exists():
        raise InputError(f"{request.out} holds an adapter already; name another folder with --out")
    checkpoints.mkdir(parents=True, exist_ok=True)
    note.write_text(training_output.as_json(run), encoding="utf-8")
    return checkpoints


def _steps(
    parts: Split, renderer: Renderer, settings: TrainingSettings
) -> tuple[list[list[Row]], int]:
    """Every step of the run, and how many an epoch has."""
    mixer = Mixer(
        parts.train, renderer, settings, training_data.balance(parts.train), manipulations()
    )
    steps: list[list[Row]] = []
    per_epoch, epoch = 0, 0
    while epoch < settings.epochs:
        rng = random.Random(f"{settings.seed}/batches/{epoch}")
        drawn = list(batches(mixer.epoch(epoch), settings.batch_tokens, rng))
        per_epoch = per_epoch or len(drawn)
        share = min(1.0, settings.epochs - epoch)
        steps += drawn[: max(1, round(share * len(drawn)))]
        epoch += 1
    if not steps:
        raise InputError(
            f"no answer fits into --max-tokens {settings.max_tokens}; there is nothing to train on"
        )
    return steps, per_epoch


def manipulations() -> tuple[str, ...]:
    """Our sentences that are addressed to the grader, of all languages."""
    if not MANIPULATIONS.is_file():
        return ()
    content = tomllib.loads(MANIPULATIONS.read_text(encoding="utf-8"))
    return tuple(text for texts in content["sentences"].values() for text in texts)


def _summary(
    parts: Split, steps: Sequence[Sequence[Row]], per_epoch: int, renderer: Renderer
) -> str:
    def count(groups: Sequence[Group]) -> str:
        answers = sum(len(group.answers) for group in groups)
        questions = counted(len(groups), "question", "questions")
        return f"{questions} with {counted(answers, 'answer', 'answers')}"

    tokens = sum(row.length for step in steps for row in step)
    alone = sum(
        len(row.head) * len(row.segments) + sum(len(s.ids) for s in row.segments)
        for step in steps
        for row in step
    )
    text = (
        f"trains on {count(parts.train)}, holds out {count(parts.held)}; "
        f"{counted(len(steps), 'step', 'steps')}, "
        f"{per_epoch} an epoch, {tokens:,} tokens ({alone:,} without sharing)"
    )
    if renderer.left_out:
        left_out = counted(len(renderer.left_out), "answer is", "answers are")
        text += f"; {left_out} too long and left out (--max-tokens)"
    return text


def _calibrated(
    request: Request,
    model: Any,
    todo: Plan,
    held: dict[int, list[Row]],
    device: str,
    report: Report,
    version: str,
) -> dict[str, Any]:
    """Read the held-out questions once more, write a calibration for each number of examples."""
    from llmarking.training import figures as training_figures, model as training_model

    results: dict[str, Any] = {}
    for shots, rows in held.items():
        if not rows:
            continue
        found = training_model.readouts(
            model, rows, todo.token_ids, device, request.settings.batch_tokens
        )
        prompt = f"verdict/{shot_name(shots)}.{version}"
        name = request.out.name
        try:
            fitted = training_figures.fitted(
                found,
                model=request.model.name,
                adapter=name,
                prompt=prompt,
                data=[s.name for s in request.validation or request.sources],
            )
        except CalibrationError as error:
            report(f"no calibration for {shots} examples: {error}")
            continue
        if request.calibrate:
            fitted.save(request.out / "calibrations" / f"{name}.{shot_name(shots)}.json")
        results[str(shots)] = {
            "slope": fitted.slope,
            "offset": fitted.offset,
            "calibrated": training_figures.agreement(found, fitted, request.settings.seed),
            "left_out": to_json(training_figures.held_out_figures(found)),
        }
        report(
            f"held out, {shots} examples: {len(found)} verdicts, kappa "
            f"{results[str(shots)]['left_out']['kappa']:.3f} (left out)"
        )
    return results


def _write(
    request: Request, metrics: dict[str, Any], log: Sequence[dict[str, Any]], numbers: int
) -> None:
    from llmarking.training import figures as training_figures

    curves = training_figures.curves(log)
    training_output.write_json(request.out / "metrics.json", metrics)
    training_output.write_json(request.out / "curves.json", curves)
    training_figures.draw(curves, request.out / "curves.png")
    text = training_output.card(
        request.out.name,
        model=request.model.name,
        base=request.base,
        digest=metrics["base_files"],
        settings=request.settings,
        prompt=metrics["prompt"],
        start=metrics["start"],
        steps=metrics["steps"],
        numbers=numbers,
        folder=request.out,
        data=metrics["data"],
        results=metrics["held_out"],
        command=request.command,
    )
    (request.out / "README.md").write_text(text, encoding="utf-8")


def _used(device: str) -> dict[str, Any]:
    """What the GPU had to hold, where there is one."""
    if not device.startswith("cuda"):
        return {"device": device}
    import torch

    return {
        "device": torch.cuda.get_device_name(),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
    }


def _plain(settings: TrainingSettings) -> dict[str, Any]:
    plain = asdict(replace(settings, alpha=settings.lora_alpha))
    plain["shot_mix"] = {str(shots): share for shots, share in settings.shot_mix.items()}
    plain["targets"] = list(settings.targets)
    return plain
