"""Training end to end on a model of two layers, and on the small test model."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import finetune
from llmarking.errors import (
    HubError,
    InputError,
    NotEnoughMemory,
    PromptError,
    TrainingDiverged,
)
from llmarking.marks import calibration
from llmarking.models import adapters, catalogue, hub
from llmarking.training import data as training_data, run as training
from llmarking.training.settings import TrainingSettings

DATA = Path(__file__).resolve().parents[1] / "data" / "training"


def quiet(_: str) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six questions of the project's own data with four answers each."""
    course = json.loads((DATA / "part_a1.json").read_text())
    course["name"] = "SMALL"
    for question in course["questions"]:
        question["answers"] = question["answers"][:4]
    path = tmp_path_factory.mktemp("data") / "small.json"
    path.write_text(json.dumps(course))
    return path


@pytest.fixture(scope="module")
def test_model() -> Path:
    """The folder of the small test model, if it is in the cache."""
    try:
        return hub.fetch(catalogue.resolve("SmolLM2-135M-Instruct")).path
    except HubError as error:
        pytest.skip(f"the test model is not here: {error}")


@pytest.fixture(scope="module")
def tiny(test_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two narrow layers, not trained, with the test model's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("model") / "tiny"
    folder.mkdir()
    for file in test_model.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            shutil.copy(file, folder)
    config = AutoConfig.from_pretrained(test_model)
    config.num_hidden_layers, config.hidden_size, config.intermediate_size = 2, 64, 128
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 4, 2, 16
    config.layer_types = None
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        # As it comes, attention is too faint for one place of a prompt to tell from another.
        for weight in model.parameters():
            weight.mul_(3)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture
def request_for(tiny: Path, small: Path, tmp_path: Path) -> Callable[..., training.Request]:
    """Makes a request for a short run."""

    def make(name: str = "marker", *, resume: bool = False, **changes: Any) -> training.Request:
        settings = TrainingSettings(
            **(
                {"rank": 4, "epochs": 1, "batch_tokens": 700, "learning_rate": 5e-3}
                | {"evaluations": 2, "held_out": 0.2, "repeat_points": 1, "decoys": 0.0}
                | changes
            )
        )
        return training.Request(
            model=catalogue.resolve(str(tiny)),
            base="org/tiny",
            sources=training_data.load([str(small)]),
            settings=settings,
            out=tmp_path / name,
            resume=resume,
            device="cpu",
        )

    return make


def test_a_run_leaves_an_adapter_with_its_papers(
    request_for: Callable[..., training.Request],
) -> None:
    request = request_for()
    said: list[str] = []
    metrics = training.finetune(request, said.append)
    adapter = adapters.read(request.out)
    assert (adapter.base, adapter.rank, adapter.prompt) == ("org/tiny", 4, "v2")
    assert metrics["steps"] >= 5
    assert metrics["data"][0]["train"]["questions"] == 5
    assert metrics["data"][0]["held_out"]["questions"] == 1
    for shots in ("zeroshot", "oneshot", "fewshot"):
        found = calibration.load(request.out / "calibrations" / f"marker.{shots}.json")
        assert (found.model, found.adapter) == ("tiny", "marker")
        assert found.prompt.startswith(f"verdict/{shots}.")
        assert found.verdicts >= 10
    card = (request.out / "README.md").read_text()
    assert metrics["adapter_sha256"] in card
    assert "| SMALL | Apache-2.0 |" in card
    curves = json.loads((request.out / "curves.json").read_text())
    assert len(curves["loss"]) >= 2
    assert len(curves["held_out_loss"]) >= 2
    assert (request.out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not (request.out / "checkpoints").exists()
    assert any("memory: about" in line for line in said)
    assert any(line.startswith("step 1/") for line in said)


def test_the_weights_move_and_come_back_in_16_bits(
    request_for: Callable[..., training.Request],
) -> None:
    import torch
    from safetensors.torch import load_file

    request = request_for()
    training.finetune(request, quiet)
    weights = load_file(request.out / "adapter_model.safetensors")
    # B starts as zeros: an adapter that never learnt would still hold them.
    moved = [w.abs().max().item() for name, w in weights.items() if "lora_B" in name]
    assert len(moved) == 14
    assert min(moved) > 0
    assert {w.dtype for w in weights.values()} == {torch.bfloat16}


def test_a_killed_run_goes_on_to_the_same_result(
    request_for: Callable[..., training.Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file

    from llmarking.training import loop as training_loop

    whole = request_for("whole")
    training.finetune(whole, quiet)
    killed = request_for("killed")
    steps = training_loop.VerdictTrainer.training_step

    def dies(self: Any, *args: Any, **options: Any) -> Any:
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return steps(self, *args, **options)

    monkeypatch.setattr(training_loop.VerdictTrainer, "training_step", dies)
    with pytest.raises(KeyboardInterrupt):
        training.finetune(killed, quiet)
    monkeypatch.undo()
    said: list[str] = []
    training.finetune(request_for("killed", resume=True), said.append)
    assert any("going on from the newest checkpoint" in line for line in said)
    assert not any(line.startswith("step 1/") for line in said)
    expected = load_file(whole.out / "adapter_model.safetensors")
    found = load_file(killed.out / "adapter_model.safetensors")
    assert expected.keys() == found.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=2e-3, rtol=2e-2)


def test_another_run_does_not_go_on_in_the_same_folder(
    request_for: Callable[..., training.Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmarking.training import loop as training_loop

    def dies(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(training_loop.VerdictTrainer, "training_step", dies)
    with pytest.raises(KeyboardInterrupt):
        training.finetune(request_for(), quiet)
    with pytest.raises(InputError, match="--resume goes on with it"):
        training.finetune(request_for(), quiet)
    with pytest.raises(InputError, match="other data or settings"):
        training.finetune(request_for(resume=True, rank=8), quiet)


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_step(
    request_for: Callable[..., training.Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmarking.training import loop as training_loop

    honest = training_loop.read_odds
    calls = iter(range(100))

    def breaks(*args: Any) -> Any:
        return honest(*args) * (math.nan if next(calls) == 1 else 1.0)

    monkeypatch.setattr(training_loop, "read_odds", breaks)
    with pytest.raises(TrainingDiverged, match=r"the loss is nan at step 2; .*--learning-rate"):
        training.finetune(request_for(), quiet)


def test_a_gradient_that_is_no_number_never_reaches_the_weights(
    request_for: Callable[..., training.Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from llmarking.training import loop as training_loop

    honest = training_loop.read_odds

    class Poison(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(_: Any, x: Any) -> Any:
            return x.clone()

        @staticmethod
        def backward(_: Any, gradient: Any) -> Any:
            return gradient * math.nan

    monkeypatch.setattr(training_loop, "read_odds", lambda *args: Poison.apply(honest(*args)))
    with pytest.raises(TrainingDiverged, match="the gradient is nan at step 1"):
        training.finetune(request_for(), quiet)


def test_its_time_ends_a_run_with_a_result(request_for: Callable[..., training.Request]) -> None:
    request = request_for(epochs=40, minutes=0.01)
    said: list[str] = []
    metrics = training.finetune(request, said.append)
    assert any("the time is over after step" in line for line in said)
    assert metrics["steps"] < 40
    assert adapters.read(request.out).rank == 4


def test_a_run_goes_on_from_an_adapter(request_for: Callable[..., training.Request]) -> None:
    import torch
    from safetensors.torch import load_file

    first = request_for("first")
    training.finetune(first, quiet)
    start = adapters.read(first.out)
    # Too small a rate to move a number in 16 bits: what comes out is what went in.
    still = replace(request_for("still", learning_rate=1e-12, rank=8), start=start)
    metrics = training.finetune(still, quiet)
    assert metrics["start"] == f"first@{start.version}"
    assert f"| start | first@{start.version} |" in (still.out / "README.md").read_text()
    assert adapters.read(still.out).rank == metrics["settings"]["rank"] == 4
    before, after = (load_file(r.out / "adapter_model.safetensors") for r in (first, still))
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight)
    moved = replace(request_for("moved"), start=start)
    training.finetune(moved, quiet)
    assert adapters.read(moved.out).version != start.version


def test_an_adapter_of_another_model_is_no_start(
    request_for: Callable[..., training.Request],
) -> None:
    start = adapters.shipped(catalogue.default_model())
    assert start is not None
    with pytest.raises(InputError, match=r"was trained for Qwen/.*, not for org/tiny"):
        training.finetune(replace(request_for(), start=start), quiet)


def test_courses_to_validate_on_make_stop_and_calibration(
    request_for: Callable[..., training.Request], tmp_path: Path
) -> None:
    course = json.loads((DATA / "part_b1.json").read_text())
    course["name"] = "OTHER"
    course["questions"] = course["questions"][:2]
    path = tmp_path / "other.json"
    path.write_text(json.dumps(course))
    request = replace(request_for(), validation=training_data.load([str(path)]))
    metrics = training.finetune(request, quiet)
    small, other = metrics["data"]
    assert (small["train"]["questions"], small["held_out"]["questions"]) == (6, 0)
    assert (other["train"]["questions"], other["held_out"]["questions"]) == (0, 2)
    fitted = calibration.load(request.out / "calibrations" / "marker.zeroshot.json")
    assert fitted.verdicts == other["held_out"]["verdicts"]


def test_an_older_prompt_can_be_trained(request_for: Callable[..., training.Request]) -> None:
    request = request_for(prompt="v1")
    assert training.finetune(request, quiet)["prompt"] == "verdict/zeroshot.v1"
    found = calibration.load(request.out / "calibrations" / "marker.zeroshot.json")
    assert found.prompt == "verdict/zeroshot.v1"
    assert adapters.read(request.out).prompt == "v1"
    with pytest.raises(PromptError, match=r"versions of verdict: v1, v2"):
        training.finetune(request_for("other", prompt="v77"), quiet)


def test_too_little_memory_is_refused_with_numbers(
    request_for: Callable[..., training.Request],
) -> None:
    with pytest.raises(NotEnoughMemory, match=r"about .* GiB: weights .*; 0\.5 GiB of memory"):
        training.finetune(request_for(memory_gib=0.5), quiet)


def test_qlora_without_a_gpu_is_refused(request_for: Callable[..., training.Request]) -> None:
    with pytest.raises(InputError, match="--qlora needs a CUDA GPU"):
        training.finetune(request_for(quantize=True), quiet)


def test_unknown_layers_are_refused(request_for: Callable[..., training.Request]) -> None:
    with pytest.raises(InputError, match="--targets no_such_layer"):
        training.finetune(request_for(targets=("no_such_layer",)), quiet)


def test_what_an_adapter_has_fixed_is_not_chosen_again(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        finetune.main(["--data", "x", "--out", "y", "--start", "shipped", "--rank", "4"])
    assert "--rank can't be chosen with --start" in capsys.readouterr().err


def test_the_script_needs_data_and_a_place(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        finetune.main([])
    assert stopped.value.code == 2
    assert "--data COURSE (or --course ID) and --out FOLDER are needed" in capsys.readouterr().err


def test_the_script_says_which_course_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = finetune.main(["--data", "no-such-course", "--out", str(tmp_path / "x")])
    assert status == 3
    assert "there is no course 'no-such-course'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_script_end_to_end_on_the_test_model(
    test_model: Path, small: Path, tmp_path: Path
) -> None:
    """The 135M model learns from a few answers on the CPU, and its adapter is fit to be served."""
    from llmarking.engines.tokenizing import HubTokenizer
    from llmarking.training import model as training_model
    from llmarking.training.rows import Renderer

    out = tmp_path / "marker135"
    command = ["-m", "SmolLM2-135M-Instruct", "--data", str(small), "--out", str(out)]
    command += ["--rank", "4", "--epochs", "1", "--batch-tokens", "1200", "--learning-rate", "2e-3"]
    command += ["--held-out", "0.2", "--evaluations", "1", "--shots", "0:1", "--device", "cpu"]
    assert finetune.main(command) == 0
    curve = json.loads((out / "curves.json").read_text())
    assert all(math.isfinite(loss) for _, loss in curve["loss"])
    found = adapters.read(out)
    assert found.base == "HuggingFaceTB/SmolLM2-135M-Instruct"
    # What was written reads the same questions as the trained model did.
    renderer = Renderer(HubTokenizer.from_folder(test_model), 2048)
    parts = training_data.split(training_data.groups(training_data.load([str(small)])), 0.2, seed=1)
    rows = training.held_rows(parts.held, renderer, 1)[0]
    model = training_model.with_adapter(training_model.load_base(test_model, "cpu"), out)
    read = training_model.readouts(model, rows, renderer.token_ids, "cpu", 4096)
    bare = training_model.readouts(
        model.get_base_model().eval(), [], renderer.token_ids, "cpu", 4096
    )
    assert bare == []
    known = calibration.load(out / "calibrations" / "marker135.zeroshot.json")
    assert known.verdicts == len(read)
    assert all(math.isfinite(r.odds) for r in read)
