# Steps that take no time from each other; source this file:
#
#   step SECONDS NAME COMMAND...   declare a step, which takes about so many seconds
#   run_steps FILE LIMIT           run all in turn, in LIMIT seconds together, and forget them
#
# Each step may take its share of the time that is left, so a step that hangs takes none from the others: it is ended,
# with all that it started. FILE.log has the output of all as it comes, FILE-summary.txt a line for each that is over:
# exit code (124 or 137: ended), seconds, name. run_steps fails if one of them did.

_grace=2  # seconds from asking a step to end to killing it
_seconds=() _names=() _commands=()

step() {
    _seconds+=("$1")
    _names+=("$2")
    _commands+=("$(printf '%q ' "${@:3}")")
}

run_steps() {
    local log=$1.log summary=$1-summary.txt deadline=$((SECONDS + $2)) rest=0 failed=0
    local i limit began code child
    for i in "${_seconds[@]}"; do rest=$((rest + i)); done
    : > "$log"
    echo "exit seconds  step" | tee "$summary"
    for i in "${!_names[@]}"; do
        limit=$(((deadline - SECONDS) * _seconds[i] / rest - _grace))
        limit=$((limit > 1 ? limit : 1))
        rest=$((rest - _seconds[i]))
        printf '\n=== %s, at most %d s: %s\n' "${_names[i]}" "$limit" "${_commands[i]}" >> "$log"
        began=$SECONDS code=0
        # In a process group of its own; in the background, so that this script can be interrupted.
        timeout --kill-after="$_grace" "$limit" bash -c "${_commands[i]}" < /dev/null >> "$log" 2>&1 &
        child=$!
        trap 'kill "$child"; exit 130' INT TERM
        { wait "$child" || code=$?; } 2> /dev/null  # where bash reports a step that was killed
        trap - INT TERM
        if ((code)); then failed=1; fi
        printf '=== %s: exit code %d\n' "${_names[i]}" "$code" >> "$log"
        printf '%4d %7d  %s\n' "$code" $((SECONDS - began)) "${_names[i]}" | tee -a "$summary"
    done
    _seconds=() _names=() _commands=()
    return "$failed"
}
