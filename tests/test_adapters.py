"""Adapters on disk: what is one, whom it fits, and the words in which others are refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from adapter_files import IN, MODULE, OUT, RANK, adapter_folder, model_folder

from llmarking.errors import InputError
from llmarking.grading.prompting import shot_name
from llmarking.marks.calibration import Calibrations
from llmarking.models import adapters, catalogue

PREFIX = f"base_model.model.{MODULE}"


def fit(adapter: Path, model: Path, **options: Any) -> None:
    values: dict[str, Any] = {"bases": ["lab/Model", "Model"], "model": model, "max_rank": 8}
    adapters.check_fit(adapters.read(adapter), **(values | options))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model")


def test_an_adapter_says_what_it_is(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "mine", base="lab/Model")
    digest = hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert adapters.read(folder) == adapters.Adapter("mine", folder, "lab/Model", RANK, digest[:12])
    assert adapters.read(folder, "other").name == "other"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "IA3"}, "no LoRA adapter: its peft_type is 'IA3'"),
        ({"use_dora": True}, "uses use_dora"),
        ({"bias": "all", "rank_pattern": {"q_proj": 4}}, "uses rank_pattern, bias"),
        ({"modules_to_save": ["lm_head"]}, "uses modules_to_save"),
        ({"r": "many"}, "lacks its base model and rank"),
        ({"r": None}, "lacks its base model and rank"),
    ],
)
def test_what_is_no_plain_lora_is_refused(
    config: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = adapter_folder(tmp_path / "mine", **config)
    with pytest.raises(InputError, match=words):
        adapters.read(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '"r"'])
def test_a_configuration_that_can_not_be_read_is_refused(content: str, tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "mine")
    (folder / "adapter_config.json").write_text(content)
    with pytest.raises(InputError, match=r"mine is no adapter: adapter_config.json"):
        adapters.read(folder)


def test_pickled_weights_are_none(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "mine")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(InputError, match=r"adapter_model.safetensors is missing"):
        adapters.read(folder)


@pytest.mark.parametrize("base", ["lab/Model", "LAB/model", "Model"])
def test_an_adapter_fits_the_model_it_was_trained_for(
    base: str, tmp_path: Path, model: Path
) -> None:
    fit(adapter_folder(tmp_path / "mine", base=base), model)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base": "lab/Other"}, "mine was trained for lab/Other, not for lab/Model"),
        ({"rank": 16}, "has rank 16 and the server takes up to 8; .* larger --max-lora-rank"),
        ({"rank": 0, "weights": {"x": (1,)}}, "has rank 0"),
        ({"weights": {f"{PREFIX}.lora_A.weight": (RANK, IN)}}, "only one of its two matrices"),
        ({"weights": {"lm_head.weight": (2, 2)}}, "'lm_head.weight', which is no LoRA weight"),
        (
            {"weights": {f"base_model.model.a.b.lora_{x}.weight": (RANK, RANK) for x in "AB"}},
            "changes a.b, which lab/Model does not have",
        ),
        (
            {"weights": {f"{PREFIX}.lora_A.weight": (RANK, IN + 1),
                         f"{PREFIX}.lora_B.weight": (OUT, RANK)}},
            r"shapes \(4, 9\) and \(12, 4\), which don't fit rank 4 and a weight of \(12, 8\)",
        ),
        (
            {"weights": {f"{PREFIX}.lora_A.weight": (RANK * 2, IN),
                         f"{PREFIX}.lora_B.weight": (OUT, RANK * 2)}},
            "don't fit rank 4",
        ),
    ],
)  # fmt: skip
def test_an_adapter_that_does_not_fit_is_refused(
    options: dict[str, Any], words: str, tmp_path: Path, model: Path
) -> None:
    folder = adapter_folder(tmp_path / "mine", **({"base": "lab/Model"} | options))
    with pytest.raises(InputError, match=words):
        fit(folder, model)


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -1])
def test_weights_that_are_cut_off_are_refused(kept: int, tmp_path: Path, model: Path) -> None:
    folder = adapter_folder(tmp_path / "mine", base="lab/Model")
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"mine: adapter_model.safetensors is damaged"):
        fit(folder, model)


def test_of_packed_weights_only_the_name_is_compared(tmp_path: Path) -> None:
    packed = model_folder(tmp_path / "packed", **{f"{MODULE}.qweight": (3, 3)})
    fit(adapter_folder(tmp_path / "mine", base="lab/Model"), packed)
    odd = {f"{PREFIX}.lora_A.weight": (RANK, IN), f"{PREFIX}.lora_B.weight": (OUT, RANK + 1)}
    with pytest.raises(InputError, match="don't fit rank 4"):
        fit(adapter_folder(tmp_path / "odd", base="lab/Model", weights=odd), packed)


@pytest.mark.parametrize("name", [catalogue.default_model().name, "SmolLM2-135M-Instruct"])
def test_an_adapter_ships_with_what_its_grades_need(name: str) -> None:
    """For the default model and the test model: a page of its own, and a calibration for each
    number of examples."""
    spec = catalogue.resolve(name)
    adapter = adapters.shipped(spec)
    assert adapter is not None
    assert adapter.base == spec.hub_id
    config = json.loads((adapter.path / "adapter_config.json").read_text())
    assert adapter.rank == config["r"]
    assert f"# {adapter.name}\n" in (adapter.path / "README.md").read_text()
    known = Calibrations()
    for shots in (0, 1, 3):
        prompt = f"verdict/{shot_name(shots)}.{adapter.prompt}"
        found = known.find(spec.name, adapter.name, prompt)
        assert found is not None, prompt
        assert found.verdicts > 0


def test_no_adapter_ships_for_other_models() -> None:
    assert adapters.shipped(catalogue.resolve("SmolLM2-1.7B-Instruct")) is None


def test_adapters_of_the_command_line(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "mine")
    (adapter,) = adapters.named([f"course={folder}"])
    assert (adapter.name, adapter.path) == ("course", folder)
    for text in ("course", "=x", "course=", str(folder)):
        with pytest.raises(InputError, match="write NAME=FOLDER"):
            adapters.named([text])
    with pytest.raises(InputError, match=r"--adapter course=.*is no adapter"):
        adapters.named([f"course={tmp_path}"])
