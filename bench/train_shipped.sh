#!/bin/sh
# Train an adapter for the default model as the one that ships, and measure it beside that one.
#
# What ships is the mean (average_adapters.py) of two such trainings, one afresh (--rank 16 --seed 2) and one
# that went on (--start, widen_adapter.py) from the adapter of version 1 of the prompt. Left for the calibration is
# data/training/part_e*.json.
#
#   OUT=out LLMARKING_DATA=../shared/datasets sh bench/train_shipped.sh [more flags of finetune.py]
#
# PYTHON, MODEL, NAME, WEIGHTS (a folder with the model's files, else the cache), COMPARE (further
# adapters, NAME=FOLDER) and OUT may be set. INT and CPT are read by the second step only.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} MODEL=${MODEL:-Qwen2.5-Coder-1.5B-Instruct}
NAME=${NAME:-qwen2.5-coder-1.5b-marker} OUT=${OUT:-out}
WEIGHTS=${WEIGHTS:+--weights $WEIGHTS} COMPARE=${COMPARE:-}
mkdir -p "$OUT"
# shellcheck disable=SC2086  # each of these is several words or none
"$PYTHON" finetune.py -m "$MODEL" $WEIGHTS --out "$OUT/$NAME" --no-color --data \
    sciEntsBank-2way-training beetle-2way-training saf-english-training data/training/part_[abd]*.json \
    --validation data/training/part_c*.json "$@" 2>&1 | tee "$OUT/train.log"
# shellcheck disable=SC2086
"$PYTHON" bench/evaluate_adapter.py -m "$MODEL" $WEIGHTS --adapters "new=$OUT/$NAME" $COMPARE \
    --whole sciEntsBank-2way-test-unseen-answers beetle-2way-test-unseen-answers \
    --courses INT CPT EXAMPLE --out "$OUT/figures.json" 2>&1 | tee "$OUT/figures.log"
