#!/usr/bin/env python3
"""Serve a model for marking: one FastAPI app around vLLM's asynchronous engine.

Examples:
    python vllm_server.py                    the default model, on a GPU where there is one
    python vllm_server.py -m 8               a model of the catalogue by its index
    python vllm_server.py -m Qwen/Qwen2.5-7B-Instruct --source modelscope
    python vllm_server.py -m /models/mine --tensor-parallel-size 2
    python vllm_server.py --list-models      what the catalogue holds
"""

from llmarking.server.serve import main

if __name__ == "__main__":
    raise SystemExit(main())
