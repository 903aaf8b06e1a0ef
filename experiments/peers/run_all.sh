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
#   TRIALS=32 PRECISION=fp32 bash experiments/peers/run_all.sh
set -euo pipefail
cd "$(dirname "$0")/../.."

folder=${1:-results/throughput}
what=${2:-all}
limit=${LIMIT:-570}     # seconds for everything
device=${DEVICE:-cuda}  # cpu: only to try the script
same=(--device "$device" --dataset "${DATASET:-mnist}" --batch-size "${BATCH_SIZE:-64}" --precision "${PRECISION:-tf32}"
    --output "$folder")

if [[ $what != accuracy ]]; then
    python experiments/peers/compare.py "${same[@]}" --trials "${TRIALS:-64}" --epochs 10 --repeats "${REPEATS:-5}" \
        --budget "${BUDGET:-3}" --limit "$((limit - SECONDS))"
fi
left=$((limit - SECONDS))
if [[ $what != throughput && $left -gt 10 ]]; then
    # The quick ones first, so that as many as possible are measured.
    python experiments/peers/accuracy.py "${same[@]}" --epochs "${EPOCHS:-3}" --limit "$left" --resume \
        --contestants optbench,vmap,hfta,cuda_graph,processes,processes_8,processes_16,eager,ray_tune,stock
elif [[ $what == all ]]; then
    echo "no time is left for accuracy: bash experiments/peers/run_all.sh $folder accuracy" >&2
fi
