# shellcheck shell=bash
# Guests by virtme-ng: this host's files as their root, read-only, with writes that are lost. Whatever is started here
# dies with this script even if it is killed: each process asks for a signal at its parent's death.

# What udev would load for nothing: seconds of a boot without KVM.
IDLE_MODULES=kvm,kvm_amd,kvm_intel,powernow_k8,acpi_cpufreq,ccp,psmouse,i2c_i801,lpc_ich,iTCO_wdt,pcspkr,joydev,evdev,button,sg
IDLE_MODULES+=,cdrom,sr_mod,ahci,libahci,libata,serio_raw,parport,drm
OVERLAYS=(/etc /lib /home /opt /srv /usr /var /tmp)

run_in_guests() {
    local host status=0 of_host
    look_for_kvm
    # virtme-ng starts this in place of QEMU itself.
    printf '#!/bin/sh\nexec setpriv --pdeathsig KILL qemu-system-x86_64 "$@"\n' >"$SCRATCH/qemu" && chmod 700 "$SCRATCH/qemu"
    say "vm: ${#HOSTS[@]} guest(s), Linux ${KERNEL##*/vmlinux-}, ${ACCELERATION:-emulated (there is no usable KVM)}; ended after $LIMIT s at most."
    for host in "${HOSTS[@]}"; do start_guest "$host"; done
    await_all
    for host in "${HOSTS[@]}"; do
        of_host=0
        judge "$host" || of_host=$?
        [ "$status" != 0 ] || status=$of_host
    done
    exit "$status"
}

# On some hosts /dev/kvm opens and yet no processor can be made.
look_for_kvm() {
    ACCELERATION=
    [ -r /dev/kvm ] && [ -w /dev/kvm ] || return 0
    local status=0
    # In braces, so that bash's own word about an abort goes to the log as well.
    { (ulimit -c 0 && exec timeout 20 qemu-system-x86_64 -M microvm,accel=kvm -cpu host,topoext=on -nodefaults -display none -monitor stdio); } \
        >"$SCRATCH/kvm.log" 2>&1 <<<quit || status=$?
    # That it has heard the word means that it ran; by the clock a busy host would seem to.
    [ "$status" != 0 ] || ACCELERATION="by KVM"
}

start_guest() {
    local host=$1 folder words=() machine=()
    for folder in "${OVERLAYS[@]}"; do
        [ ! -d "$folder" ] || words+=(--overlay-rwdir "$folder")
    done
    if [ -z "$ACCELERATION" ]; then
        # A time stamp of the emulator is the host's, the same on all processors: without one each look at the clock is a system call. And its
        # `rep movsb`, which programs and kernel take to be fast, goes byte by byte: seven times slower than any other copy.
        words+=(--disable-kvm --kopt tsc=reliable --kopt clocksource=tsc)
        machine+=(-cpu "max,-erms,-fsrm")
    fi
    [ -z "$CONSOLE" ] || words+=(--show-boot-console)
    [ "$SHARED" = "$SCRATCH/shared" ] || words+=(--rwdir "$SHARED")
    words+=(--script-sh "$(printf '%q ' "$BASH" "$LIB/vm/inside" "$PRIVATE" "$host")")
    [ "$MODE" != guests ] || machine+=(-netdev "$(wire_of "$host")" -device "virtio-net-pci,netdev=wire,mac=$(mac_of "$host"),host_mtu=4200")
    [ ${#machine[@]} = 0 ] || words+=(--qemu-opts "${machine[@]}")
    start_for "$host" env TMPDIR="$SCRATCH" XDG_CACHE_HOME="$SCRATCH" setpriv --pdeathsig KILL \
        "$VIRTME/bin/virtme-run" --kimg "$KERNEL" --mods auto --force-9p --qemu-bin "$SCRATCH/qemu" --name "host$host" \
        --cpus "$CPUS" --memory "$MEMORY" --user root --kopt "module_blacklist=$IDLE_MODULES" --rwdir "$SCRATCH" "${words[@]}"
}

# Frames by unix datagrams: no port that could be taken, and either guest may be first.
wire_of() {
    local own=$SCRATCH/wire.$1 peer=$SCRATCH/wire.$((3 - $1))
    echo "dgram,id=wire,local.type=unix,local.path=$own,remote.type=unix,remote.path=$peer"
}

# What became of a guest: its command's status, if it came to one.
judge() {
    local host=$1
    ! went_off "$host" || return 0
    [ ! -s "$PRIVATE/status.$host" ] || return "$(<"$PRIVATE/status.$host")"
    case ${ENDED[$host]} in
    124 | 137) say "vm: host$host was not done after $LIMIT s and was ended; --limit gives it more." && return 124 ;;
    143) return 143 ;;
    esac
    local when="ended before its command did (did its kernel crash?)"
    [ -e "$PRIVATE/up.$host" ] || when="did not boot"
    say "vm: the guest of host$host $when; --console shows the kernel's messages."
    return 125
}
