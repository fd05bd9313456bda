# syntax=docker/dockerfile:1
# Two images from one file:
#   docker build -t llmarking:cpu .
#   docker build --build-arg DEVICE=gpu -t llmarking:gpu .
# No model is inside: the first start fetches one into the volume /cache, and later starts find it.
# torch's CPU build comes from TORCH_INDEX, or from a folder:  --build-context wheels=/path/to/wheels
ARG DEVICE=cpu

FROM scratch AS wheels

FROM python:3.11.14-slim-bookworm AS cpu-base
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# vLLM compiles kernels when it starts, and places its threads through libnuma.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libnuma1 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY constraints-cpu.txt .
RUN --mount=type=bind,from=wheels,target=/wheels \
    pip install --no-cache-dir --no-deps --find-links /wheels \
        --extra-index-url "$TORCH_INDEX" -r constraints-cpu.txt

FROM vllm/vllm-openai:v0.32.0 AS gpu-base
# The image is Ubuntu with vLLM in the system's Python; pip is told that this is meant.
ENV PIP_BREAK_SYSTEM_PACKAGES=1
WORKDIR /app
COPY requirements.txt constraints-gpu.txt ./
RUN python3 -m pip install --no-cache-dir -r requirements.txt

# hadolint ignore=DL3006
FROM ${DEVICE}-base AS server
WORKDIR /app
COPY . .
RUN useradd --uid 10001 --create-home --home-dir /cache llmarking
ENV HOME=/cache \
    LLMARKING_CACHE=/cache/llmarking \
    TORCHINDUCTOR_CACHE_DIR=/cache/torchinductor \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DO_NOT_TRACK=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    VLLM_NO_USAGE_STATS=1
USER 10001
VOLUME /cache
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --retries=3 \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"]
ENTRYPOINT ["python3", "vllm_server.py", "--host", "0.0.0.0", "--port", "8000"]
