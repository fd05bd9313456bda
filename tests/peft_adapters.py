"""Makes adapters as peft writes them, untrained but strong, so that what they do is plain to see.

python tests/peft_adapters.py MODEL FOLDER FOLDER ...
"""

from __future__ import annotations

import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM


def main() -> None:
    model, *folders = sys.argv[1:]
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        options = LoraConfig(
            r=8,
            lora_alpha=8,
            task_type="CAUSAL_LM",
            init_lora_weights=False,
            target_modules=["q_proj", "v_proj", "up_proj", "down_proj"],
        )
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
        lora = get_peft_model(base, options)
        lora.peft_config["default"].base_model_name_or_path = "HuggingFaceTB/SmolLM2-135M-Instruct"
        with torch.no_grad():
            for name, weight in lora.named_parameters():
                if ".lora_B." in name:
                    weight.mul_(0.3)
        lora.save_pretrained(folder)


if __name__ == "__main__":
    main()
