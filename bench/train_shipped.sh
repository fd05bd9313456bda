#!/bin/sh
# Train the adapter that ships with the default model, and measure it beside the one before.
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
    sciEntsBank-2way-training beetle-2way-training saf-english-training data/training/part_*.json \
    "$@" 2>&1 | tee "$OUT/train.log"
# shellcheck disable=SC2086
"$PYTHON" bench/evaluate_adapter.py -m "$MODEL" $WEIGHTS --adapters "new=$OUT/$NAME" $COMPARE \
    --whole sciEntsBank-2way-test-unseen-answers beetle-2way-test-unseen-answers \
    --courses INT CPT EXAMPLE --out "$OUT/figures.json" 2>&1 | tee "$OUT/figures.log"
