"""The training loop: transformers' Trainer, with our batches, our loss and our held-out figures.

What is ours is what no library has: the loss looks at the verdict tokens and nothing else, and the
held-out part is measured in kappa. Steps, schedule, checkpoints and going on after a kill are the
Trainer's. Imports torch and transformers with the module.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, SequentialSampler
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from llmarking.errors import TrainingDiverged
from llmarking.training.figures import held_out_figures
from llmarking.training.model import Batch, collate, read_odds, readouts
from llmarking.training.rows import Row
from llmarking.training.settings import TrainingSettings

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do, step by step, drawn before it starts.

    Attributes:
        steps: the rows of every step of all epochs.
        per_epoch: steps of one epoch.
        held: rows of the held-out questions; empty where nothing is held out.
    """

    steps: Sequence[Sequence[Row]]
    per_epoch: int
    held: Sequence[Row]
    token_ids: tuple[int, int]


class _Steps(Dataset):  # type: ignore[misc]  # torch is not followed by mypy
    def __init__(self, steps: Sequence[Sequence[Row]]) -> None:
        self._steps = steps

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: int) -> Sequence[Row]:
        return self._steps[index]


class VerdictTrainer(Trainer):  # type: ignore[misc]  # transformers is not followed by mypy
    """Trains on the verdicts of a plan."""

    lr_scheduler: Any
    control: Any

    def __init__(
        self,
        model: Any,
        arguments: TrainingArguments,
        plan: Plan,
        settings: TrainingSettings,
        report: Report,
    ) -> None:
        self._plan = plan
        self._settings = settings
        self._started = time.monotonic()
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=_Steps(plan.steps),
            eval_dataset=_Steps([plan.held]),
            callbacks=[_Guard(), _Progress(report, settings.minutes, self._started)],
        )
        if plan.held:
            self.add_callback(EarlyStoppingCallback(settings.patience))
        for name in ("PrinterCallback", "ProgressCallback"):
            for callback in list(self.callback_handler.callbacks):
                if type(callback).__name__ == name:
                    self.remove_callback(callback)

    def get_train_dataloader(self) -> Any:
        # Steps were drawn, shuffled and packed before; their order is what going on relies on.
        loader = DataLoader(
            self.train_dataset,
            batch_size=1,
            sampler=SequentialSampler(self.train_dataset),
            collate_fn=lambda steps: collate(steps[0]),
        )
        return self.accelerator.prepare(loader)

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, **_: Any
    ) -> Any:
        """Cross-entropy of the verdicts, each with its weight; nothing else of the text counts."""
        odds = read_odds(model, inputs, self._plan.token_ids)
        each = torch.nn.functional.binary_cross_entropy_with_logits(
            odds, inputs["truth"], reduction="none"
        )
        loss = (each * inputs["weight"]).sum() / inputs["weight"].sum()
        if not torch.isfinite(loss):
            step = self.state.global_step + 1
            raise _diverged("loss", loss.item(), step, self.args.learning_rate)
        return (loss, {"odds": odds}) if return_outputs else loss

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Linear warm-up, then a cosine down to a twentieth, by steps or by time if that is up."""
        if self.lr_scheduler is None:
            # A long plan may be cut short by the clock: the rate is up after a minute or so.
            warm = max(1, min(50, round(num_training_steps * self._settings.warmup)))
            limit = (self._settings.minutes or math.inf) * 60

            def factor(step: int) -> float:
                if step < warm:
                    return (step + 1) / warm
                done = max(
                    (step - warm) / max(1, num_training_steps - warm),
                    (time.monotonic() - self._started) / limit,
                )
                return 0.05 + 0.475 * (1 + math.cos(math.pi * min(1.0, done)))

            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, factor
            )
        return self.lr_scheduler

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Loss and kappa on the held-out questions, as `eval_loss` and so on."""
        found = readouts(
            self.model,
            self._plan.held,
            self._plan.token_ids,
            str(self.args.device),
            2 * self._settings.batch_tokens,
        )
        figures = {f"eval_{name}": value for name, value in held_out_figures(found).items()}
        self.log(figures)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, figures
        )
        return figures


def _diverged(what: str, value: float, step: int, rate: float) -> TrainingDiverged:
    return TrainingDiverged(
        f"the {what} is {value} at step {step}; training stopped, and what was saved before is "
        f"kept. Try a lower --learning-rate than {rate:g}"
    )


class _Guard(TrainerCallback):  # type: ignore[misc]
    """Ends the run before a gradient that is no number gets into the weights."""

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Look at all gradients at once."""
        sums = [p.grad.float().sum() for p in model.parameters() if p.grad is not None]
        total = torch.stack(sums).sum()
        if not torch.isfinite(total):
            raise _diverged("gradient", total.item(), state.global_step + 1, args.learning_rate)


class _Progress(TrainerCallback):  # type: ignore[misc]
    """Says how it goes, and ends the run when its time is over."""

    def __init__(self, report: Report, minutes: float | None, started: float) -> None:
        self._report = report
        self._limit = math.inf if minutes is None else minutes * 60
        self._started = started
        self._first: tuple[int, float] | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = bool(args.do_eval)
        if time.monotonic() - self._started > self._limit:
            self._report(f"the time is over after step {state.global_step}")
            control.should_training_stop = True
            control.should_evaluate = control.should_save = bool(args.do_eval)
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        now = time.monotonic()
        if logs and "eval_loss" in logs:
            self._report(
                f"step {state.global_step}: held out: loss {logs['eval_loss']:.4f}, kappa "
                f"{logs['eval_kappa']:.3f} (points {logs['eval_kappa_points']:.3f}, whole "
                f"{logs['eval_kappa_whole']:.3f})"
            )
        elif logs and "loss" in logs:
            if self._first is None:
                self._first = (state.global_step, now)
            done, since = state.global_step - self._first[0], now - self._first[1]
            left = since / done * (state.max_steps - state.global_step) if done else math.nan
            rest = "" if math.isnan(left) else f", {left / 60:.1f} min left"
            self._report(
                f"step {state.global_step}/{state.max_steps}: loss {logs['loss']:.4f}, gradient "
                f"{logs.get('grad_norm', math.nan):.2f}, rate {logs['learning_rate']:.1e}{rest}"
            )


def arguments(
    folder: Path, settings: TrainingSettings, plan: Plan, device: str
) -> TrainingArguments:
    """The Trainer's arguments; checkpoints go into `folder`."""
    every = max(1, plan.per_epoch // max(1, settings.evaluations))
    held = bool(plan.held)
    return TrainingArguments(
        output_dir=str(folder),
        # One "epoch" of the Trainer is the whole plan, epochs of the data included.
        num_train_epochs=1,
        per_device_train_batch_size=1,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        adam_beta2=0.99,
        max_grad_norm=1.0,
        seed=settings.seed,
        do_eval=held,
        eval_strategy="steps" if held else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=held,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_first_step=True,
        logging_steps=max(1, min(10, every // 4)),
        # Our own guard stops at a NaN; this filter would hide it.
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        label_names=["truth"],
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to=[],
        use_cpu=device == "cpu",
    )


def train(
    model: Any,
    plan: Plan,
    settings: TrainingSettings,
    folder: Path,
    device: str,
    report: Report,
) -> list[dict[str, Any]]:
    """Train the LoRA layers of a model, going on from the newest checkpoint in `folder`.

    Returns:
        the log: one entry for every logged step and every look at the held-out questions. The
        model is left with the weights that were best on them.

    Raises:
        TrainingDiverged: the loss or a gradient became NaN or infinite; the step is named.
    """
    set_seed(settings.seed)
    trainer = VerdictTrainer(
        model, arguments(folder, settings, plan, device), plan, settings, report
    )
    newest = any(folder.glob("checkpoint-*/trainer_state.json"))
    if newest:
        report(f"going on from the newest checkpoint in {folder}")
    trainer.train(resume_from_checkpoint=True if newest else None)
    return list(trainer.state.log_history)
