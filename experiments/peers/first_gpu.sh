#!/usr/bin/env bash
# What to run first on a new GPU, in three parts of at most ten minutes:
#
#   bash experiments/peers/first_gpu.sh OUT 1   is it right: every candidate by itself, the tests marked gpu; a profile
#   bash experiments/peers/first_gpu.sh OUT 2   how fast are stacks; halving, and a stack beyond the memory
#   bash experiments/peers/first_gpu.sh OUT 3   how fast are the peers
#   bash experiments/peers/first_gpu.sh OUT     all three
#
# OUT/partN-summary.txt says which steps passed, OUT/partN.log has what they printed, as they print it; figures are in
# files beside them, each as soon as it is measured. A step that fails or hangs costs only itself; the exit code is then 1.
#
# Needs optbench's own dependencies, pytest, hypothesis and MNIST ($OPTBENCH_DATA names a folder that has it, else it is
# downloaded). LIMIT=560: the seconds for a part. DEVICE=cpu is for trying the script: few trials, and digits.
set -u
out=${1:?the folder for the results} parts=${2:-1 2 3} device=${DEVICE:-cuda} limit=${LIMIT:-560}
mkdir -p "$out" && out=$(cd "$out" && pwd) && cd "$(dirname "$0")/../.." || exit 2
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
peers=experiments/peers
. $peers/steps.sh

if [[ $device == cuda ]]; then
    candidate=() triton=() profiled=(32 128) profile=() benched=(32 128 8 1 256) bench=(--repeats 3 --seconds 0.5) halving=()
    compared=(--dataset mnist --trials 64,128 --precision tf32 --epochs 10 --repeats 9 --budget 3)
else
    export TRITON_INTERPRET=1 OMP_NUM_THREADS=1
    candidate=(--trials 2 --timed 2 --parameters 3000 --repeats 1) triton=(--trials 1 --timed 1 --batch-size 1)
    profiled=(1) profile=(--batch-size 8 --steps 4) benched=(1) bench=(--repeats 1 --seconds 0.05 --workers 1)
    halving=(--set epochs=3 --set seeds=1 --set search.num_samples=9)
    compared=(--dataset digits --trials 2,4 --epochs 1 --repeats 1 --contestants optbench,eager)
fi
# Each test is named when it begins. Warnings are shown but are not errors, since another torch has others.
tests=(python3 -m pytest -o addopts= -o faulthandler_timeout=60 -p no:cacheprovider -v --tb=short -W default)
if [[ $device == cuda ]]; then tests+=(-m gpu); else tests+=(--collect-only); fi

part1() {
    local name figures=(--device "$device" --output "$out/part1.jsonl")
    rm -f "$out/part1.jsonl"
    step 15 versions python3 -m torch.utils.collect_env
    for name in tf32 bf16 fp32; do
        step 35 "triton-$name" python3 $peers/candidates.py convolution triton --precision "$name" \
            "${candidate[@]}" "${triton[@]}" "${figures[@]}"
    done
    for name in grouped grouped_channels_last unfolded loop; do
        step 25 "$name" python3 $peers/candidates.py convolution "$name" "${candidate[@]}" "${figures[@]}"
    done
    for name in adam adamw sgd; do
        step 20 "update-$name" python3 $peers/candidates.py update "$name" "${candidate[@]}" "${figures[@]}"
    done
    step 40 recorded-step python3 $peers/candidates.py step adam "${candidate[@]}" "${figures[@]}"
    for name in "${profiled[@]}"; do
        step 45 "profile-T$name" python3 $peers/profile_step.py --trials "$name" "${profile[@]}" "${figures[@]}"
    done
    for name in $(grep --files-with-matches --fixed-strings mark.gpu tests/*.py); do
        step 50 "$(basename "$name" .py)" "${tests[@]}" -k "not beyond_the_memory" "$name"
    done
}

part2() {
    local name
    for name in "${benched[@]}"; do
        step 70 "bench-T$name" python3 -m optbench bench --device "$device" --trials "$name" "${bench[@]}" \
            -o "$out/bench-T$name.json"
    done
    local halve=(python3 -m optbench run experiments/halving.yaml "${halving[@]}")
    step 40 halving-cpu "${halve[@]}" --device cpu -o "$scratch/cpu"
    # With a stack size, so that it is not measured.
    step 50 halving "${halve[@]}" --device "$device" --stack-size 27 -o "$scratch/device"
    step 5 halving-verdicts python3 $peers/verdicts.py "$scratch"/{cpu,device}/halving --output "$out/halving.parquet"
    step 40 out-of-memory "${tests[@]}" -k beyond_the_memory tests/test_gpu.py
}

part3() {
    step 1 peers python3 $peers/compare.py --device "$device" "${compared[@]}" --seeds own,shared \
        --limit $((limit - 60)) --output "$out"
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0
for part in $parts; do
    "part$part" || exit 2
    run_steps "$out/part$part" "$limit" || failed=1
done
exit "$failed"
