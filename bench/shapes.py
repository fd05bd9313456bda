"""Folders of models that have a shape and a tokenizer but no weights, for `--load-format dummy`."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

# As in the configuration files that Qwen2.5 is published with.
SHAPES = {
    "7b": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": 152064,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
    }
}


def dummy_folder(shape: str, tokenizer: Path, parent: Path) -> Path:
    """A model folder of a shape, with another model's tokenizer and an empty file of weights."""
    folder = parent / f"dummy-{shape}"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SHAPES[shape], indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder / name)
    # A safetensors file without tensors: the length of its header, and the header.
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    return folder
