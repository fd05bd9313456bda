"""Turn a GGUF file into a bfloat16 safetensors folder.

    python -m llmarking.models.gguf SOURCE FOLDER

It runs as a process of its own, so that the several gigabytes it takes are given back at its end
and no caller has to import torch. transformers unpacks the weights. What its GGUF loader gets wrong
about the tokenizer, the tied embedding and the stop tokens is put right here, from the name of the
pre-tokenizer that the file carries.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
UNUSED_TOKEN = 5  # a filler entry of a GGUF vocabulary (llama.cpp's LLAMA_TOKEN_TYPE_UNUSED)

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class OriginalTokenizer:
    """What the publisher's own `tokenizer.json` says where a GGUF file has only a name for it."""

    normalizer: Mapping[str, Any] | None
    pre_tokenizer: Mapping[str, Any]
    stop_tokens: tuple[str, ...]
    plain_added_tokens: frozenset[str] = frozenset()
    """Added tokens that are not special: decoding keeps them when special tokens are skipped."""
    config: Mapping[str, Any] = field(default_factory=dict)


def _byte_level(*, use_regex: bool, trim_offsets: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": trim_offsets,
        "use_regex": use_regex,
    }


ORIGINALS: dict[str, OriginalTokenizer] = {
    "qwen2": OriginalTokenizer(
        normalizer={"type": "NFC"},
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": QWEN2_SPLIT},
                    "behavior": "Isolated",
                    "invert": False,
                },
                _byte_level(use_regex=False, trim_offsets=False),
            ],
        },
        stop_tokens=("<|im_end|>", "<|endoftext|>"),
        plain_added_tokens=frozenset(
            {
                "<tool_call>",
                "</tool_call>",
                "<|fim_prefix|>",
                "<|fim_middle|>",
                "<|fim_suffix|>",
                "<|fim_pad|>",
                "<|repo_name|>",
                "<|file_sep|>",
            }
        ),
        config={"bos_token": None},
    ),
    "smollm": OriginalTokenizer(
        normalizer=None,
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                _byte_level(use_regex=True, trim_offsets=True),
            ],
        },
        stop_tokens=("<|im_end|>",),
    ),
}


def convert(source: Path, folder: Path) -> None:
    """Write `folder` (config, tokenizer, `model.safetensors` in bfloat16) from the GGUF file
    `source`.

    Raises ValueError for a pre-tokenizer not known here: its text would be split in another way
    than the model was trained on.
    """
    from gguf import GGUFReader

    reader = GGUFReader(source)
    name = str(_value(reader, "tokenizer.ggml.pre"))
    if name not in ORIGINALS:
        known = ", ".join(sorted(ORIGINALS))
        raise ValueError(
            f"{source.name}: pre-tokenizer {name!r} is not known here (known: {known})"
        )
    original = ORIGINALS[name]
    unused = _unused_tokens(reader)
    context = int(_value(reader, f"{_value(reader, 'general.architecture')}.context_length"))
    sizes = {tensor.name: int(tensor.n_bytes) for tensor in reader.tensors}
    del reader

    import torch  # after what can fail at once, for this takes seconds
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    AutoTokenizer.from_pretrained(**place).save_pretrained(folder)
    added = repair_tokenizer(folder, original, unused, context)

    model = AutoModelForCausalLM.from_pretrained(
        **place, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    embedding: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    if head.weight is not embedding.weight and same_matrix(embedding.weight, head.weight):
        if sizes[HEAD] > sizes[EMBEDDING]:
            embedding.weight = head.weight
        model.config.tie_word_embeddings = True
        model.tie_weights()
    model.save_pretrained(folder)
    stops = [added[token] for token in original.stop_tokens]
    _edit_json(
        folder / "generation_config.json",
        drop="_from_model_config",
        eos_token_id=stops if len(stops) > 1 else stops[0],
    )
    _edit_json(folder / "config.json", drop="_model_name_or_path")
    _follow_umask(folder)


def same_matrix(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Say whether two weights (rows, columns) are one matrix, written with different precision.

    llama.cpp stores the matrix of a tied model twice when it gives the output finer blocks than the
    embedding. The two then differ by rounding, some 8 % of their size at four bits; unrelated
    matrices differ by over 100 %.
    """
    if one.shape != other.shape:
        return False
    step = max(1, one.shape[0] // 1024)  # a thousand rows tell as much as all of them
    first, second = one.detach()[::step].float(), other.detach()[::step].float()
    return bool((first - second).norm() < 0.25 * second.norm())


def repair_tokenizer(
    folder: Path, original: OriginalTokenizer, unused: frozenset[str], context: int
) -> dict[str, int]:
    """Rewrite the tokenizer files in `folder` to split text as the original; return ids of its
    added tokens.

    `unused` are vocabulary entries without meaning, which are dropped; `context` is in tokens.
    """
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["normalizer"] = original.normalizer
    tokenizer["pre_tokenizer"] = original.pre_tokenizer
    for token in tokenizer["added_tokens"]:
        token["special"] = token["content"] not in original.plain_added_tokens
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {k: v for k, v in vocabulary.items() if k not in unused}
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")

    path = folder / "tokenizer_config.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    config = {key: saved.get(key) for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
    # The generic class takes tokenizer.json as it stands; a model's own would rebuild parts of it.
    config |= {
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "tokenizer_class": "PreTrainedTokenizerFast",
        **original.config,
    }
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return {token["content"]: token["id"] for token in tokenizer["added_tokens"]}


def verify(source: Path, folder: Path) -> None:
    """Raise ValueError unless `folder` holds the weights of `source`, all of them and unchanged.

    Sizes are compared for all, values for the embedding and the norms (which no layout change
    touches), at bfloat16's precision. A tied model keeps the finer of two copies of its embedding.
    """
    import torch
    from gguf import GGUFReader, dequantize
    from safetensors import safe_open

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    reader = GGUFReader(source)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if config["tie_word_embeddings"] and HEAD in tensors:
        head = tensors.pop(HEAD)
        tensors[EMBEDDING] = max(tensors[EMBEDDING], head, key=lambda tensor: int(tensor.n_bytes))
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        names = list(weights.keys())
        expected = sorted(int(tensor.n_elements) for tensor in tensors.values())
        found = sorted(prod(weights.get_slice(name).get_shape()) for name in names)
        if found != expected:
            raise ValueError(
                f"{len(found)} weights were written where the file has {len(expected)}"
            )
        pairs = {EMBEDDING: "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
        for layer in range(config["num_hidden_layers"]):
            pairs[f"blk.{layer}.attn_norm.weight"] = f"model.layers.{layer}.input_layernorm.weight"
        for theirs, ours in pairs.items():
            values = torch.tensor(dequantize(tensors[theirs].data, tensors[theirs].tensor_type))
            if not torch.equal(values.to(torch.bfloat16), weights.get_tensor(ours)):
                raise ValueError(f"{ours} differs from {theirs} of the file")


def _value(reader: Any, key: str) -> Any:
    field_ = reader.get_field(key)
    if field_ is None:
        raise ValueError(f"the file has no {key}")
    return field_.contents()


def _unused_tokens(reader: Any) -> frozenset[str]:
    tokens = _value(reader, "tokenizer.ggml.tokens")
    types = _value(reader, "tokenizer.ggml.token_type")
    return frozenset(t for t, kind in zip(tokens, types, strict=True) if kind == UNUSED_TOKEN)


def _edit_json(path: Path, *, drop: str, **changes: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    content.pop(drop, None)
    content.update(changes)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _follow_umask(folder: Path) -> None:
    """Give the weights the mode of the user's other files; safetensors writes them as 0600."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.iterdir():
        path.chmod(0o666 & ~umask)


def main(arguments: list[str]) -> int:
    """Convert and verify; one line on standard error and status 1 when that cannot be done."""
    source, folder = Path(arguments[0]), Path(arguments[1])
    try:
        convert(source, folder)
        verify(source, folder)
    except (ValueError, OSError) as error:
        print(f"{source.name} could not be converted: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
