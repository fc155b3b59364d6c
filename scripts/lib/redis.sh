# shellcheck shell=bash disable=SC2034
# redis natively and under Tandem, for the demos. Needs common.sh and a policyd of our own.

REDIS_SETTINGS=("-c 1" "-c 50" "-c 50 -P 16")
REDIS_OPERATIONS=(SET GET)
declare -A REDIS_PORT REDIS_COUNT
REDIS_HOST=127.0.0.1
RUN_LIMIT=60
# The words that put a command on the server's host, and on the clients'.
AT_SERVER=() AT_CLIENT=()

# under native|tandem server|client: the words that stand before a command.
under() {
    UNDER=("${AT_CLIENT[@]}")
    [ "$2" = client ] || UNDER=("${AT_SERVER[@]}")
    [ "$1" = native ] || UNDER+=("$RELEASE/tandem" run --)
}

# Both servers run for the whole time: an idle one costs nothing, and neither is favoured by a fresh start.
start_redis() {
    local side tries
    for side in native tandem; do
        REDIS_PORT[$side]=$(free_port)
        mkdir -p "$SCRATCH/redis-$side"
        under "$side" server
        spawn "$SCRATCH/redis-$side.log" "${UNDER[@]}" redis-server --bind "$REDIS_HOST" --port "${REDIS_PORT[$side]}" \
            --protected-mode no --save '' --appendonly no --dir "$SCRATCH/redis-$side"
        for tries in {1..100}; do
            redis_cli "$side" ping >/dev/null 2>&1 && break
            kill -0 "$SPAWNED" 2>/dev/null && [ "$tries" -lt 100 ] && sleep 0.05 && continue
            tail -n 20 "$SCRATCH/redis-$side.log" >&2
            fail "redis-server ($side) did not start; its output is above."
        done
    done
}

# redis_cli native|tandem WORDS...: redis-cli itself is never under Tandem, so that what it costs is not counted.
redis_cli() { timeout 20 "${AT_CLIENT[@]}" redis-cli -h "$REDIS_HOST" -p "${REDIS_PORT[$1]}" "${@:2}"; }

# What redis-server itself counts on its sockets, in and out.
redis_bytes() {
    redis_cli "$1" info stats | awk -F: '/^total_net_(in|out)put_bytes:/ { sum += $2 } END { printf "%.0f\n", sum }'
}

# redis_run native|tandem "SETTING" OPERATION COUNT LOG: one redis-benchmark; requests/s in $RATE.
redis_run() {
    local side=$1 setting=$2 operation=$3 count=$4 log=$5
    : >"$log"
    under "$side" client
    # shellcheck disable=SC2086 # a setting is several words
    run_within "$RUN_LIMIT" "$log" "${UNDER[@]}" redis-benchmark -h "$REDIS_HOST" -p "${REDIS_PORT[$side]}" $setting -t "${operation,,}" -n "$count" --csv ||
        { cat "$log" >&2 && fail "redis-benchmark $setting -t ${operation,,} ($side) failed or took more than $RUN_LIMIT s; its output is above."; }
    RATE=$(sed -n "s/^\"$operation\",\"\\([0-9.]*\\)\".*/\\1/p" "$log")
    [ -n "$RATE" ] || { cat "$log" >&2 && fail "redis-benchmark $setting -t ${operation,,} ($side) named no rate; its output is above."; }
}

# So many requests that one native run takes about $1 seconds, by a trial of $2 (20,000), which warms the server up as well.
calibrate_redis() {
    local seconds=$1 trial=${2:-20000} setting operation
    for setting in "${REDIS_SETTINGS[@]}"; do
        for operation in "${REDIS_OPERATIONS[@]}"; do
            redis_run native "$setting" "$operation" "$trial" "$SCRATCH/trial.log"
            REDIS_COUNT[$setting $operation]=$("$PYTHON" -c 'import sys
print(max(int(sys.argv[3]) // 4, int(float(sys.argv[1]) * float(sys.argv[2])) // 1000 * 1000))' "$RATE" "$seconds" "$trial")
        done
    done
}
