# shellcheck shell=bash disable=SC2153
# What the demos share: redis natively and under Tandem, in turns. Needs common.sh and redis.sh, and of each demo: ROUNDS, CARRIER (what
# carries), and `by_companion`, which prints how many bytes have been sent by companions so far.

# One value of 1 MiB, and one of 1 B, written and read back through the server that runs under Tandem.
compare_content() {
    local size key sent got
    for size in 1 1048576; do
        key=demo:$size
        head -c "$size" /dev/urandom | base64 -w0 >"$SCRATCH/value"
        under tandem client
        "${UNDER[@]}" redis-cli -h "$REDIS_HOST" -p "${REDIS_PORT[tandem]}" -x set "$key" <"$SCRATCH/value" >/dev/null
        "${UNDER[@]}" redis-cli -h "$REDIS_HOST" -p "${REDIS_PORT[tandem]}" get "$key" | tr -d '\n' >"$SCRATCH/reply"
        sent=$(sha256sum <"$SCRATCH/value")
        got=$(sha256sum <"$SCRATCH/reply")
        [ "$sent" = "$got" ] || fail "redis under Tandem gave back another value than was set ($size bytes)."
    done
}

measure() {
    local total=$((${#REDIS_SETTINGS[@]} * ${#REDIS_OPERATIONS[@]} * ROUNDS * 2)) done=0
    local setting operation round side
    for setting in "${REDIS_SETTINGS[@]}"; do
        for operation in "${REDIS_OPERATIONS[@]}"; do
            for ((round = 1; round <= ROUNDS; round++)); do
                # Who goes first changes, so that neither always finds the machine as the other left it.
                local sides=(native tandem)
                [ $((round % 2)) = 1 ] || sides=(tandem native)
                for side in "${sides[@]}"; do
                    measure_one "$setting" "$operation" "$side"
                    done=$((done + 1))
                    progress "$done" "$total" "$setting" "$operation" "$round" "$side"
                done
            done
        done
    done
    [ ! -t 2 ] || say
}

measure_one() {
    local setting=$1 operation=$2 side=$3 carried=0 bytes=0 carried_before bytes_before
    carried_before=$(by_companion) || fail "tandem status failed."
    bytes_before=$(redis_bytes "$side")
    redis_run "$side" "$setting" "$operation" "${REDIS_COUNT[$setting $operation]}" "$SCRATCH/run.log"
    if [ "$side" = tandem ]; then
        carried=$(by_companion) || fail "tandem status failed."
        carried=$((carried - carried_before))
        bytes=$(($(redis_bytes tandem) - bytes_before))
    fi
    printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$setting" "$operation" "$side" "$RATE" "$carried" "$bytes" >>"$SCRATCH/results"
}

# On a terminal one line that is written over; elsewhere a line a run.
progress() {
    local text
    printf -v text '[%2d/%d] redis-benchmark %-11s %s round %d %-6s %10.0f requests/s' "$1" "$2" "$3" "$4" "$5" "$6" "$RATE"
    if [ -t 2 ]; then printf '\r%-78s' "$text" >&2; else say "$text"; fi
}

# Exit status 1 when some setting was not carried at all: then the table compares TCP with TCP.
report() {
    "$PYTHON" "$ROOT/scripts/lib/demo_table.py" "$SCRATCH/results" "$CARRIER" && return
    say "Why, as tandem status tells it:"
    "$RELEASE/tandem" status >&2
    fail "nothing was carried by a companion in at least one setting."
}
