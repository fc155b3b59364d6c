# shellcheck shell=bash disable=SC2034
# What a guest is made of: QEMU and the RDMA tools by apt, Debian's kernel unpacked beside the system's, and virtme-ng,
# both in a cache. Each is complete when it has the file `complete`; what an interrupted run left is made anew.

CACHE=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/tandem
VIRTME_VERSION=1.42
VIRTME=$CACHE/virtme-ng-$VIRTME_VERSION

# KERNEL: an image that QEMU boots, with its modules where virtme-ng finds them.
prepare_guest() {
    "$ROOT/scripts/setup" --quiet vm || exit 1
    KERNEL=$(newest_kernel)
    if [ -n "$KERNEL" ] && [ -e "$VIRTME/complete" ]; then return; fi
    mkdir -p "$CACHE" || fail "cannot make the folder $CACHE; XDG_CACHE_HOME may name another place."
    exec {CACHE_LOCK}>"$CACHE/lock" || fail "cannot write $CACHE/lock."
    if ! flock --nonblock "$CACHE_LOCK"; then
        say "vm: another scripts/vm is fetching what guests need; waiting for it."
        run_within 900 "$SCRATCH/flock.log" flock "$CACHE_LOCK" || fail "another scripts/vm holds $CACHE/lock for more than 15 minutes."
    fi
    # Somebody else may have done it meanwhile.
    [ -e "$VIRTME/complete" ] || fetch_virtme
    KERNEL=$(newest_kernel)
    [ -n "$KERNEL" ] || fetch_kernel
    exec {CACHE_LOCK}>&-
}

newest_kernel() {
    local complete version
    complete=$(printf '%s\n' "$CACHE"/linux-*/complete | sort -V | tail -n1)
    [ -e "$complete" ] || return 0
    version=$(basename -- "$(dirname -- "$complete")")
    echo "$CACHE/$version/boot/vmlinux-${version#linux-}"
}

fetch_virtme() {
    say "vm: fetching virtme-ng $VIRTME_VERSION into $VIRTME ..."
    rm -rf -- "$VIRTME"
    fetching "$PYTHON" -m venv "$VIRTME"
    fetching "$VIRTME/bin/pip" --quiet --disable-pip-version-check install "virtme-ng==$VIRTME_VERSION"
    touch "$VIRTME/complete"
}

fetch_kernel() {
    local package folder
    package=$(kernel_package)
    if [ -z "$package" ] && [ "$(id -u)" = 0 ]; then
        say "vm: running apt-get update"
        fetching apt-get update -q
        package=$(kernel_package)
    fi
    [ -n "$package" ] || fail "apt knows no linux-image-amd64; please run apt-get update as root, then come again."
    folder=$CACHE/linux-${package#linux-image-}
    say "vm: fetching $package into $folder (70 MB, 500 MB unpacked) ..."
    rm -rf -- "$folder"
    mkdir -p "$folder/package"
    download "$package" "$folder/package"
    fetching dpkg -x "$folder/package/$package"_*.deb "$folder"
    fetching depmod -b "$folder" "${package#linux-image-}"
    # Emulated, the kernel takes seconds to unpack itself; QEMU boots the plain ELF just as well.
    fetching "$PYTHON" "$LIB/vm/vmlinux.py" "$folder/boot/vmlinuz-${package#linux-image-}" "$folder/boot/vmlinux-${package#linux-image-}"
    rm -rf -- "$folder/package"
    touch "$folder/complete"
    KERNEL=$(newest_kernel)
}

# The exact name behind linux-image-amd64: a pattern would fetch every flavour.
kernel_package() {
    apt-cache depends linux-image-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -n1
}

# download PACKAGE FOLDER. apt's lists may be older than what the mirror still has.
download() {
    local command=(env -C "$2" apt-get download -q -o APT::Sandbox::User=root "$1")
    run_within 600 "$SCRATCH/fetch.log" "${command[@]}" && return
    [ "$(id -u)" = 0 ] && run_within 600 "$SCRATCH/fetch.log" apt-get update -q && run_within 600 "$SCRATCH/fetch.log" "${command[@]}" && return
    cat "$SCRATCH/fetch.log" >&2
    fail "apt-get could not download $1; its output is above. Is the network up, and are apt's lists fresh (apt-get update)?"
}

# One step, with its output shown only if it fails.
fetching() {
    : >"$SCRATCH/fetch.log"
    run_within 600 "$SCRATCH/fetch.log" "$@" && return
    cat "$SCRATCH/fetch.log" >&2
    fail "'$*' failed; its output is above."
}
