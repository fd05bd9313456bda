"""Token ids in, text and log-probabilities out. Only `vllm_*` modules import vllm."""
