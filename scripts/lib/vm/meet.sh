# shellcheck shell=bash
# For commands that run on two hosts at once: they meet by files in the folder that both see. Source "$TANDEM_VM_LIB".

# tell NAME: whoever awaits NAME goes on.
tell() { touch "$TANDEM_VM_SHARED/$1"; }

# await NAME SECONDS: until the other has told, or fails.
await() {
    local until=$((SECONDS + $2))
    until [ -e "$TANDEM_VM_SHARED/$1" ]; do
        [ "$SECONDS" -lt "$until" ] || { echo "'$1' was not told within $2 s." >&2 && return 1; }
        sleep 0.1
    done
}
