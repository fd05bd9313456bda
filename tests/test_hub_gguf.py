"""A converted GGUF file has the weights of the file and the tokenizer of the original."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_gguf import MERGES, vocabulary, write_gguf
from hypothesis import given, strategies as st
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer

from llmarking.models.gguf import ORIGINALS, convert, main, same_matrix, verify

BYTES = {character: byte for byte, character in bytes_to_unicode().items()}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, "qwen2", "qwen2", head="finer")
    return path


@pytest.fixture(scope="module")
def folder(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("converted")
    convert(source, made)
    verify(source, made)
    return made


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def tokenizer_with(pre: str) -> Tokenizer:
    """Return a tokenizer that normalizes and splits as the original of that name."""
    rules = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": ORIGINALS[pre].normalizer,
        "pre_tokenizer": ORIGINALS[pre].pre_tokenizer,
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    return Tokenizer.from_str(json.dumps(rules))


def split(tokenizer: Tokenizer, text: str) -> list[str]:
    """Return the pieces within which the merges of BPE happen."""
    if tokenizer.normalizer is not None:
        text = tokenizer.normalizer.normalize_str(text)
    pieces = [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    return [bytes(BYTES[character] for character in piece).decode() for piece in pieces]


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("qwen2", "in 2024", ["in", " ", "2", "0", "2", "4"]),
        ("qwen2", "I'll DON'T", ["I", "'ll", " DON", "'T"]),
        ("qwen2", "你好，世界", ["你好", "，世界"]),
        ("qwen2", "a  b\n\n c\t", ["a", " ", " b", "\n\n", " c", "\t"]),
        ("qwen2", "cafe\u0301", ["caf\u00e9"]),
        ("qwen2", "x=[1]; y", ["x", "=[", "1", "];", " y"]),
        ("smollm", "in 2024", ["in", " ", "2", "0", "2", "4"]),
        ("smollm", "I'll DON'T", ["I", "'ll", " DON", "'", "T"]),
        ("smollm", "你好，世界", ["你好", "，", "世界"]),
        ("smollm", "a  b\n\n c\t", ["a", " ", " b", "\n\n", " c", "\t"]),
        ("smollm", "cafe\u0301", ["cafe", "\u0301"]),
        ("smollm", "x=[1]; y", ["x", "=[", "1", "];", " y"]),
    ],
)
def test_text_splits_as_the_original_does(pre: str, text: str, pieces: list[str]) -> None:
    assert split(tokenizer_with(pre), text) == pieces


def test_the_saved_tokenizer_has_these_rules(folder: Path) -> None:
    saved = read(folder / "tokenizer.json")
    assert saved["normalizer"] == ORIGINALS["qwen2"].normalizer
    assert saved["pre_tokenizer"] == ORIGINALS["qwen2"].pre_tokenizer


@given(text=st.text(max_size=40))
def test_transformers_own_class_for_the_original_agrees(text: str) -> None:
    """transformers writes Qwen2's rules down a second time, independently of us."""
    ids = {token: number for number, token in enumerate(vocabulary())}
    theirs = Qwen2Tokenizer(vocab=ids, merges=[tuple(merge.split()) for merge in MERGES])
    assert split(tokenizer_with("qwen2"), text) == split(theirs.backend_tokenizer, text)


def test_added_tokens_are_special_as_in_the_original_and_filler_is_gone(folder: Path) -> None:
    saved = read(folder / "tokenizer.json")
    special = {token["content"]: token["special"] for token in saved["added_tokens"]}
    assert special == {
        "<|endoftext|>": True,
        "<|im_start|>": True,
        "<|im_end|>": True,
        "<|fim_prefix|>": False,
        "<tool_call>": False,
    }
    assert "[PAD9]" not in saved["model"]["vocab"]


def test_generation_stops_at_both_of_the_originals_tokens(folder: Path) -> None:
    tokens = list(vocabulary())
    stops = [tokens.index("<|im_end|>"), tokens.index("<|endoftext|>")]
    assert read(folder / "generation_config.json")["eos_token_id"] == stops


def test_an_embedding_stored_twice_is_kept_once_in_the_finer_copy(
    source: Path, folder: Path
) -> None:
    import gguf

    (head,) = (t for t in gguf.GGUFReader(source).tensors if t.name == "output.weight")
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        assert "lm_head.weight" not in weights.keys()  # noqa: SIM118 - not a dict
        embedding = weights.get_tensor("model.embed_tokens.weight")
    assert torch.equal(embedding, torch.tensor(np.array(head.data)).to(torch.bfloat16))
    assert read(folder / "config.json")["tie_word_embeddings"] is True


def test_the_files_have_the_mode_that_the_umask_asks_for(folder: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o666 & ~umask}


def test_no_path_or_name_of_the_conversion_stays_in_the_files(folder: Path, source: Path) -> None:
    for path in folder.glob("*.json"):
        assert str(source.parent) not in path.read_text(encoding="utf-8")
    assert "_name_or_path" not in read(folder / "config.json")


def test_transformers_loads_it_without_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    ids = tokenizer("hello world<|im_end|>", return_tensors="pt").input_ids
    assert tokenizer.decode(ids[0]) == "hello world<|im_end|>"
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == "hello world"
    assert model(ids).logits.shape == (1, ids.shape[1], len(vocabulary()))
    assert caplog.records == []


def test_two_roundings_of_one_matrix_are_told_from_two_matrices() -> None:
    torch.manual_seed(3)
    one, other = torch.randn(300, 16), torch.randn(300, 16)
    assert same_matrix(one, (one * 4).round() / 4)
    assert not same_matrix(one, other)
    assert not same_matrix(one, one[:100])


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.norm.weight"])
def test_verification_finds_a_weight_that_differs(
    source: Path, folder: Path, tmp_path: Path, name: str
) -> None:
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    weights[name].view(-1)[7] += 1
    save_file(weights, copy / "model.safetensors")
    with pytest.raises(ValueError, match=name):
        verify(source, copy)


def test_verification_finds_a_weight_that_is_missing(
    source: Path, folder: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors")
    with pytest.raises(ValueError, match="weights were written"):
        verify(source, copy)


def test_a_pre_tokenizer_nobody_wrote_rules_for_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.gguf"
    write_gguf(path, "llama", "tekken", head=None)
    assert main([str(path), str(tmp_path / "out")]) == 1
    assert "tekken" in capsys.readouterr().err
