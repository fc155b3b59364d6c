# shellcheck shell=bash
# Makes one host, or two that are network namespaces, with rxe devices, and runs the command on them: in a guest, and
# just so on a host that has rdma_rxe. For root.
#
# In Linux up to 6.12 at least an rxe device works in the first network namespace alone, but every namespace can use it. So
# the RDMA wire, a pair of veth interfaces, stays in the first one; the two hosts have another pair, with the same addresses, for TCP.

RXE_MODULES=(rdma_rxe rdma_ucm ib_uverbs)
RUN=/run/tandem # where a system's policyd has its socket; each host of two has its own

load_modules() {
    local module
    for module in "${RXE_MODULES[@]}"; do
        [ -d "/sys/module/$module" ] || modprobe "$module" || { say "vm: modprobe $module failed." && return 1; }
    done
}

# A guest has number 0. Of a host each run has a number of its own, by a lock that ends with it, so that names and addresses
# collide with no other run's.
claim_number() {
    mkdir -p /run/lock
    for ((NUMBER = 1; NUMBER < 250; NUMBER++)); do
        exec {NUMBER_LOCK}>"/run/lock/tandem-vm.$NUMBER" || fail "cannot write /run/lock/tandem-vm.$NUMBER."
        flock --nonblock "$NUMBER_LOCK" && return
        exec {NUMBER_LOCK}>&-
    done
    fail "249 others run on this host already."
}

# Addresses are of the range for benchmarks.
choose_names() {
    local host before='' after=''
    ADDRESS=([1]="198.18.$NUMBER.1" [2]="198.18.$NUMBER.2")
    ADDRESS6=([1]="fd54:6e64:a$NUMBER::1" [2]="fd54:6e64:a$NUMBER::2")
    [ "$NUMBER" = 0 ] || before=tvm$NUMBER- after=_tvm$NUMBER
    for host in 1 2; do
        HOST_NAME[host]=${before}host$host
        DEVICE[host]=rxe$host$after
        WIRE_END[host]=${before}wire$host
        TCP_END[host]=${before}tcp$host
    done
}

make_one() {
    ip link set lo up
    ip link add "${WIRE_END[1]}" mtu 4200 type dummy &&
        give_addresses "${WIRE_END[1]}" 1 &&
        add_device 1
}

make_namespaces() {
    local host end
    ip link set lo up
    ip link add "${WIRE_END[1]}" mtu 4200 type veth peer name "${WIRE_END[2]}" mtu 4200 || return
    for end in "${WIRE_END[@]}"; do
        # Both ends are this kernel's own: without these nobody answers ARP. (Of rp_filter the greater counts, this or that of
        # all interfaces, and 1 is the strict one.)
        echo 1 >"/proc/sys/net/ipv4/conf/$end/accept_local"
        echo 2 >"/proc/sys/net/ipv4/conf/$end/rp_filter"
    done
    for host in 1 2; do ip netns add "${HOST_NAME[host]}" || return; done
    ip link add "${TCP_END[1]}" mtu 4200 netns "${HOST_NAME[1]}" type veth peer name "${TCP_END[2]}" mtu 4200 netns "${HOST_NAME[2]}" || return
    for host in 1 2; do
        give_addresses "${WIRE_END[host]}" "$host" &&
            ip -n "${HOST_NAME[host]}" link set lo up &&
            give_addresses "${TCP_END[host]}" "$host" -n "${HOST_NAME[host]}" || return
    done
    add_device 1 && add_device 2
}

# A guest's end of the wire between two guests.
make_guest() {
    local host=$1
    ip link set lo up
    modprobe virtio_net || return
    local patience interface=
    for patience in {1..100}; do
        interface=$(ip -br link | awk -v mac="$(mac_of "$host")" '$3 == mac { print $1 }')
        [ -z "$interface" ] || break
        sleep 0.1
    done
    [ -n "$interface" ] || { say "vm: this guest has no network card after $patience looks." && return 1; }
    WIRE_END[host]=$interface
    ip link set "$interface" mtu 4200 && give_addresses "$interface" "$host" && add_device "$host"
}

mac_of() { echo "52:54:00:00:00:0$1"; }

# give_addresses INTERFACE HOST [WORDS for ip]
give_addresses() {
    ip "${@:3}" addr add "${ADDRESS[$2]}/24" dev "$1" &&
        # nodad: at once, and both ends of a pair may have it. Where the host has no IPv6, there is none.
        { ip "${@:3}" addr add "${ADDRESS6[$2]}/64" dev "$1" nodad || say "vm: no IPv6 on $1."; } &&
        ip "${@:3}" link set "$1" up
}

# Ready when the address is in the table of GIDs, which the kernel fills by and by.
add_device() {
    local device=${DEVICE[$1]} patience gid
    rdma link add "$device" type rxe netdev "${WIRE_END[$1]}" || return
    # shellcheck disable=SC2183,SC2046,SC2086 # an address's four numbers
    gid=$(printf '0000:0000:0000:0000:0000:ffff:%02x%02x:%02x%02x' $(tr . ' ' <<<"${ADDRESS[$1]}"))
    for patience in {1..100}; do
        grep -qsx "$gid" "/sys/class/infiniband/$device/ports/1/gids/"* && return
        sleep 0.1
    done
    say "vm: $device did not take up the address ${ADDRESS[$1]} within 10 s ($patience looks)."
    return 1
}

# For a host that is not a guest; also what a run that was killed has left under this number. Every process that used a
# device must be gone: with a live queue pair the kernel's command waits for its holder.
unmake() {
    local host device
    for host in 1 2; do
        device=${DEVICE[host]}
        [ ! -e "/sys/class/infiniband/$device" ] || timeout 20 rdma link del "$device" ||
            say "vm: the device $device could not be removed; rdma link del $device, when nobody uses it any more."
        ip link del "${WIRE_END[host]}" 2>/dev/null
        ip netns del "${HOST_NAME[host]}" 2>/dev/null
    done
    return 0
}

# Beside the plan's variables: what the command is to know. describe HOST
describe() {
    local host=$1 peer=$((3 - $1))
    [ "$MODE" != one ] || peer=$host
    export TANDEM_VM_MODE=$MODE TANDEM_VM_HOST=$host TANDEM_VM_SHARED=$SHARED TANDEM_VM_LIB=$LIB/vm/meet.sh
    export TANDEM_VM_ADDRESS=${ADDRESS[host]} TANDEM_VM_ADDRESS6=${ADDRESS6[host]}
    export TANDEM_VM_PEER=${ADDRESS[peer]} TANDEM_VM_PEER6=${ADDRESS6[peer]}
    export TANDEM_VM_DEVICE=${DEVICE[host]} TANDEM_VM_INTERFACE=${WIRE_END[host]}
    if [ "$MODE" = namespaces ]; then
        export TANDEM_VM_INTERFACE=${TCP_END[host]}
        export TANDEM_VM_HOSTS="${HOST_NAME[*]}" TANDEM_VM_DEVICES="${DEVICE[*]}" TANDEM_VM_WIRE="${WIRE_END[*]}"
    fi
}

# The first device that is up.
active_device() {
    local state
    for state in /sys/class/infiniband/*/ports/1/state; do
        grep -qs ACTIVE "$state" && cut -d/ -f5 <<<"$state" && return
    done
    return 1
}

# By a device that is there, whatever it is: nothing is made and nothing is removed.
run_by_device() {
    local port=/sys/class/infiniband/$DEVICE_NAME/ports/1 interface
    [ -d "$port" ] || fail "this host has no RDMA device $DEVICE_NAME; those it has: $(echo /sys/class/infiniband/*)."
    interface=$(cat "$port"/gid_attrs/ndevs/* 2>/dev/null | head -n1)
    WIRE_END[1]=$interface DEVICE[1]=$DEVICE_NAME
    ADDRESS[1]=$(address_of -4 "$interface") ADDRESS6[1]=$(address_of -6 "$interface")
    [ -n "${ADDRESS[1]}" ] || fail "the RDMA device $DEVICE_NAME has no interface with an IPv4 address."
    say "vm: on this host, by its device $DEVICE_NAME."
    local status=0
    run_command 1 || status=$?
    exit "$status"
}

# address_of -4|-6 INTERFACE
address_of() { ip "$1" -o addr show dev "${2:-none}" scope global 2>/dev/null | awk '{ sub("/.*", "", $4); print $4; exit }'; }

# On a host that is not a guest, by devices made for this.
run_here() {
    say "vm: on this host, by rdma_rxe."
    claim_number
    choose_names
    unmake
    trap 'end_all; unmake' EXIT
    "make_$MODE" || fail "the devices could not be made; the message is above."
    local status=0
    run_command 1 || status=$?
    exit "$status"
}

# The command, on host $1 or on both namespaces; returns its status, of two the first that is not 0.
run_command() {
    local host status=0
    cd -- "$FOLDER" || return 125
    ulimit -l unlimited || say "vm: memlock stays at $(ulimit -l) KiB; registering memory may fail."
    HOSTS=("$1")
    if [ "$MODE" != namespaces ] || [ -n "$ONCE" ]; then
        describe "$1" && start_for "$1" "${COMMAND[@]}"
    else
        HOSTS=(1 2)
        mkdir -p "$RUN"
        for host in 1 2; do start_in_namespace "$host"; done
    fi
    await_all
    for host in "${HOSTS[@]}"; do
        [ "$status" != 0 ] || status=${ENDED[$host]}
    done
    return "$status"
}

# `ip netns exec` brings a mount namespace: /run/tandem is the host's own, and so is the place of a user's policyd.
start_in_namespace() {
    describe "$1"
    # shellcheck disable=SC2016 # for the inner shell
    XDG_RUNTIME_DIR=$RUN/user start_for "$1" ip netns exec "${HOST_NAME[$1]}" "$BASH" -c \
        'mount -t tmpfs -o mode=755 tandem "$0" && mkdir -m 700 "$0/user" && exec "$@"' "$RUN" "${COMMAND[@]}"
}
