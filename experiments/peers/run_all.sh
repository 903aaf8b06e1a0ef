#!/usr/bin/env bash
# Throughput and accuracy of optbench and its peers on this machine's GPU, in under ten minutes:
#
#   bash experiments/peers/run_all.sh [FOLDER]            both; accuracy gets what time throughput leaves
#   bash experiments/peers/run_all.sh FOLDER throughput   throughput only
#   bash experiments/peers/run_all.sh FOLDER accuracy     accuracy only: what FOLDER does not have yet
#
# Needs optbench's own dependencies and MNIST ($OPTBENCH_DATA names a folder that has it, else it is downloaded); HFTA and
# Ray Tune join where they are installed (experiments/peers/requirements.txt). Other settings by environment variables:
#
#   TRIALS=64,128 SEEDS=own,shared PRECISION=fp32 bash experiments/peers/run_all.sh
set -euo pipefail
cd "$(dirname "$0")/../.."

folder=${1:-results/throughput}
what=${2:-all}
limit=${LIMIT:-500}     # seconds for everything, with some to spare before ten minutes are over
device=${DEVICE:-cuda}  # cpu: only to try the script
same=(--device "$device" --dataset "${DATASET:-mnist}" --batch-size "${BATCH_SIZE:-64}" --precision "${PRECISION:-tf32}"
    --output "$folder")

if [[ $what != accuracy ]]; then
    python3 experiments/peers/compare.py "${same[@]}" --trials "${TRIALS:-64}" --seeds "${SEEDS:-own}" --epochs 10 \
        --repeats "${REPEATS:-5}" --budget "${BUDGET:-3}" --limit "$((limit - SECONDS))"
fi
left=$((limit - SECONDS))
if [[ $what != throughput && $left -gt 10 ]]; then
    python3 experiments/peers/accuracy.py "${same[@]}" --epochs "${EPOCHS:-3}" --limit "$left" --resume
elif [[ $what == all ]]; then
    echo "no time is left for accuracy: bash experiments/peers/run_all.sh $folder accuracy" >&2
fi
