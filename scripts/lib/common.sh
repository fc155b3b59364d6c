# shellcheck shell=bash disable=SC2034
# What the scripts share: where things are, how they speak, and how they clean up after themselves.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
LIB=$ROOT/scripts/lib
PYTHON=/usr/bin/python3

# rustup installs there without always being on PATH; Debian keeps servers in /usr/sbin, which users lack.
PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:/usr/sbin:/sbin

case ${CARGO_TARGET_DIR:=$ROOT/target} in
/*) ;;
*) CARGO_TARGET_DIR=$PWD/$CARGO_TARGET_DIR ;;
esac
export CARGO_TARGET_DIR
RELEASE=$CARGO_TARGET_DIR/release

say() { printf '%s\n' "$*" >&2; }

# One plain sentence, non-zero exit.
fail() {
    say "${0##*/}: $*"
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

build_release() {
    say "Building libtandem.so, tandem and tandem-policyd (release) ..."
    (cd "$ROOT" && cargo build --release -p tandem-shim -p tandem-policyd) ||
        fail "the build failed; cargo's message is above."
    local file
    for file in libtandem.so tandem tandem-policyd; do
        [ -e "$RELEASE/$file" ] || fail "the build left no $RELEASE/$file."
    done
}

# ---- processes: only those started here, by pid, are ever ended ----

CHILDREN=()
SCRATCH=

# spawn LOG COMMAND...: in the background, output to LOG; its pid is in $SPAWNED.
spawn() {
    local log=$1
    shift
    "$@" >>"$log" 2>&1 </dev/null &
    SPAWNED=$!
    CHILDREN+=("$SPAWNED")
}

# run_within SECONDS LOG COMMAND...: like spawn, but waits. Signals are served at once, because bash
# runs a trap during `wait` but not during a foreground command.
run_within() {
    local seconds=$1 log=$2
    shift 2
    spawn "$log" timeout --kill-after=5 "$seconds" "$@"
    local pid=$SPAWNED status=0
    wait "$pid" || status=$?
    forget "$pid"
    return "$status"
}

forget() {
    local kept=() pid
    for pid in "${CHILDREN[@]}"; do
        [ "$pid" = "$1" ] || kept+=("$pid")
    done
    CHILDREN=("${kept[@]}")
}

# TERM, and KILL for who has not gone after two seconds.
stop() {
    local pid=$1 tries
    kill "$pid" 2>/dev/null
    for tries in {1..40}; do
        [ "$tries" = 40 ] && kill -KILL "$pid" 2>/dev/null
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.05
    done
    wait "$pid" 2>/dev/null
    forget "$pid"
}

clean_up() {
    trap '' INT TERM HUP
    local index
    # Youngest first: clients before their server, policyd last.
    for ((index = ${#CHILDREN[@]} - 1; index >= 0; index--)); do
        stop "${CHILDREN[index]}"
    done
    if [ -n "$SCRATCH" ]; then rm -rf -- "$SCRATCH"; fi
}

# A folder of our own (mode 0700) that goes with us. Its path must leave room for a socket name (107 bytes).
make_scratch() {
    local parent=${TMPDIR:-/tmp}
    [ "${#parent}" -le 70 ] || parent=/tmp
    SCRATCH=$(mktemp -d "$parent/tandem-${0##*/}.XXXXXX") || fail "cannot make a folder in $parent."
    trap clean_up EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# A TCP port that nobody on 127.0.0.1 holds right now.
free_port() {
    "$PYTHON" -c 'import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# Nothing that the caller's shell has set may change what is measured or tested.
forget_environment() {
    local name
    for name in "${!TANDEM_@}" LD_PRELOAD; do
        [[ $name == TANDEM_TESTS_* ]] || unset "$name"
    done
}

# ---- a policyd of our own ----

start_policyd() {
    export TANDEM_POLICYD=$SCRATCH/policyd.sock
    spawn "$SCRATCH/policyd.log" "$RELEASE/tandem-policyd" --socket "$TANDEM_POLICYD"
    local tries
    for tries in {1..100}; do
        "$RELEASE/tandem" status --json >/dev/null 2>&1 && return
        kill -0 "$SPAWNED" 2>/dev/null || break
        sleep 0.05
    done
    cat "$SCRATCH/policyd.log" >&2
    fail "tandem-policyd did not start (tried ${tries} times); its output is above."
}

# status KEY...: totals of policyd, as numbers on one line.
status() {
    "$RELEASE/tandem" status --json | "$PYTHON" -c 'import json, sys
status = json.load(sys.stdin); print(*(status[key] for key in sys.argv[1:]))' "$@"
}
