# shellcheck shell=bash
# What runs for one host or for both at once: its output passed on, its end awaited. Used here, with guests, and inside a
# guest, with commands. Needs common.sh.

GRACE=20 # seconds that one host's command has after the other's has failed
declare -A PROCESS=() PUMPS=() ENDED=()

# start_for HOST COMMAND...: in the background, within LIMIT. QEMU opens its stdout and stderr again by name, which loses
# a file's content and fails for a socket; so what is started here has pipes.
start_for() {
    local host=$1 stream
    shift
    for stream in out err; do
        mkfifo "$SCRATCH/$stream.$host"
        pump "$stream" "$host" &
        PUMPS[$host]+=" $!"
    done
    setpriv --pdeathsig TERM timeout --kill-after=2 "$LIMIT" "$@" >"$SCRATCH/out.$host" 2>"$SCRATCH/err.$host" </dev/null &
    PROCESS[$host]=$!
    CHILDREN+=("$!")
}

# Of two hosts the lines say whose they are.
pump() {
    local command=(cat)
    [ ${#HOSTS[@]} = 1 ] || command=(stdbuf -oL sed "s/^/host$2: /")
    # It ends when the writer does, not before.
    trap '' INT TERM
    if [ "$1" = out ]; then exec "${command[@]}" <"$SCRATCH/out.$2"; else exec "${command[@]}" <"$SCRATCH/err.$2" >&2; fi
}

# Until all have ended; each one's exit status is in ENDED.
await_all() {
    local host failed='' since=0
    while [ ${#PROCESS[@]} -gt 0 ]; do
        sleep 0.1
        for host in "${!PROCESS[@]}"; do
            kill -0 "${PROCESS[$host]}" 2>/dev/null && continue
            reap "$host"
            [ "${ENDED[$host]}" = 0 ] || went_off "$host" || [ -n "$failed" ] || { failed=$host && since=$SECONDS; }
        done
        if [ -n "$failed" ] && [ ${#PROCESS[@]} -gt 0 ] && [ $((SECONDS - since)) -ge "$GRACE" ]; then
            say "vm: host$failed failed with ${ENDED[$failed]} $GRACE s ago; ending the other one."
            for host in "${!PROCESS[@]}"; do kill "${PROCESS[$host]}"; done
            since=$((SECONDS + LIMIT))
        fi
    done
}

# A guest whose command has said that it ends like this.
went_off() { [ "$MODE" = guests ] && [ -e "$SHARED/off.$1" ]; }

reap() {
    local host=$1 status=0
    wait "${PROCESS[$host]}" || status=$?
    forget "${PROCESS[$host]}"
    ENDED[$host]=$status
    end_rest "$host"
}

# What the command has left running (`timeout` made a process group of it) ends with it, so that nobody waits for what it
# might still print; what it did print is passed on.
end_rest() {
    local host=$1 tries pump
    kill -KILL -- "-${PROCESS[$host]}" 2>/dev/null
    unset "PROCESS[$host]"
    for pump in ${PUMPS[$host]}; do
        # Only a process that made a group of its own can still hold the pipe.
        for tries in {1..60}; do
            kill -0 "$pump" 2>/dev/null || break
            [ "$tries" != 60 ] || kill -KILL "$pump" 2>/dev/null
            sleep 0.05
        done
        wait "$pump" 2>/dev/null
    done
    rm -f "$SCRATCH/out.$host" "$SCRATCH/err.$host"
}

# The way out, by a signal too.
end_all() {
    trap '' INT TERM HUP
    local host pid
    for host in "${!PROCESS[@]}"; do
        pid=${PROCESS[$host]}
        stop "$pid"
        end_rest "$host"
    done
    clean_up
}
