# shellcheck shell=bash
# What the guest boots from, made once and kept in CACHE. Sourced by scripts/netem-vm.
#
#   system-HASH/   kernel, system.img, and root/, the folder that the image was made of
#   docker-HASH.img   /var/lib/docker of an engine that holds the node image
# A hash names what went in; where it is there already nothing is made. Older ones are removed.

readonly SUITE=bookworm KERNEL=linux-image-cloud-amd64
# kmod loads the kernel's modules at first use; busybox turns the machine off.
readonly SYSTEM_PACKAGES=python3,iproute2,iptables,iputils-ping,ca-certificates,kmod,busybox-static,procps,docker.io,docker-compose
readonly SPARE_MIB=512

# disk_from FOLDER IMAGE: an ext4 file system that holds the folder, with some room.
disk_from() {
    local size
    size=$(du -sm --one-file-system "$1" | cut -f 1)
    # Inodes and the journal take their share.
    mke2fs -q -F -t ext4 -d "$1" "$2" "$((size * 5 / 4 + SPARE_MIB))M" >/dev/null
}

# system_hash: of everything that the system image is made from.
system_hash() {
    {
        pins
        echo "$SYSTEM_PACKAGES"
        declare -f make_system install_kernel install_python
        cat "$ROOT/scripts/netem-vm.d/init"
    } | sha256sum | cut -c 1-12
}

pins() { "$ROOT/.venv/bin/python" "$ROOT/scripts/netem-vm.d/pins.py" "$ROOT"; }

# install_kernel ROOT: unpacked, not installed: no boot loader and no initial RAM disk, for the
# drivers of our disks and of ext4 are built in.
install_kernel() {
    local root=$1 package
    cp -L /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true
    {
        chroot "$root" apt-get update -qq
        package=$(chroot "$root" apt-cache depends "$KERNEL" | awk '$1 == "Depends:" { print $2; exit }')
        chroot "$root" sh -c "cd /tmp && apt-get download -qq -o APT::Sandbox::User=root '$package'"
    } >>"$root.log" 2>&1 || {
        tail -n 20 "$root.log" >&2
        lack "the kernel package $KERNEL could not be downloaded" "is Debian's mirror reachable (apt-get update)?"
    }
    # Not into the root itself, whose /lib is a link that dpkg-deb would replace.
    chroot "$root" sh -c 'dpkg-deb -x /tmp/linux-image-*.deb /tmp/kernel &&
        mv /tmp/kernel/boot/* /boot && mv /tmp/kernel/lib/modules /usr/lib && rm -r /tmp/kernel /tmp/*.deb'
    chroot "$root" depmod "${package#linux-image-}"
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root/etc/resolv.conf"
}

# install_python ROOT: the pinned packages, by this machine's pip, which knows where they are to be
# had; for the guest's Python, not for its own. Apart from Debian's, which docker-compose stands on.
install_python() {
    local root=$1 venv=$1/opt/peerbed platform arguments=()
    mkdir -p "$venv/bin"
    echo 'home = /usr/bin' >"$venv/pyvenv.cfg"
    ln -s /usr/bin/python3 "$venv/bin/python3"
    for platform in manylinux2014 manylinux_2_27 manylinux_2_28; do
        arguments+=(--platform "${platform}_x86_64")
    done
    say "installing the Python packages of the guest"
    pins >"$root.pins"
    "$ROOT/.venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --target "$venv/lib/python3.11/site-packages" --python-version 3.11 \
        --implementation cp "${arguments[@]}" --only-binary=:all: -r "$root.pins" >"$root.log" 2>&1 || {
        tail -n 20 "$root.log" >&2
        lack "pip could not install the Python packages of the guest" "see the lines above"
    }
}

# make_system DIR: kernel and system image, in a folder that appears when it is complete.
make_system() {
    local root=$1.new/root
    rm -rf --one-file-system "$1.new"
    mkdir -p "$1.new"
    need_debootstrap "the guest's system"
    bootstrap "the guest's system" "$root" "$root.log" "$SYSTEM_PACKAGES"
    copy_sources "$root"
    trust_site_cas "$root"
    install_kernel "$root"
    install_python "$root"
    mkdir -p "$root/work" "$root/out" "$root/var/lib/docker"
    install -m 0755 "$ROOT/scripts/netem-vm.d/init" "$root/sbin/peerbed-init"
    cp "$root"/boot/vmlinuz-* "$1.new/kernel"
    disk_from "$root" "$1.new/system.img"
    mv "$1.new" "$1"
}

# ensure_system: sets SYSTEM to the folder.
ensure_system() {
    SYSTEM=$CACHE/system-$(system_hash)
    [[ -d $SYSTEM ]] && return
    make_system "$SYSTEM"
    find "$CACHE" -maxdepth 1 -name 'system-*' ! -path "$SYSTEM" -exec rm -rf --one-file-system {} +
    say "the guest's system is built: $(du -sh "$SYSTEM/system.img" | cut -f 1), $SECONDS s"
}

# ensure_docker_disk: sets DOCKER_DISK. The guest's own engine fills it, without hardware to emulate
# and in name spaces of its own: it neither meets this machine's engine nor outlives this script.
ensure_docker_disk() {
    local image scratch
    image=$(node_image) || lack "the node image could not be made" "see the lines above"
    DOCKER_DISK=$CACHE/docker-$(printf '%s\n' "${SYSTEM##*/}" "$image" | sha256sum | cut -c 1-12).img
    [[ -f $DOCKER_DISK ]] && return
    say "making a disk with the node image for the guest's Docker engine"
    scratch=$SCRATCH/docker
    mkdir "$scratch"
    # shellcheck disable=SC2086 # two names
    docker save -o "$SCRATCH/images.tar" $image
    timeout 300 unshare --mount --pid --net --ipc --fork --kill-child \
        bash "$ROOT/scripts/netem-vm.d/load" "$SYSTEM/root" "$scratch" "$SCRATCH/images.tar" \
        >"$SCRATCH/load.log" 2>&1 || {
        tail -n 20 "$SCRATCH/load.log" >&2
        lack "the guest's Docker engine could not take in the node image" "see the lines above"
    }
    disk_from "$scratch" "$SCRATCH/docker.img"
    rm -rf --one-file-system "$scratch" "$SCRATCH/images.tar"
    find "$CACHE" -maxdepth 1 -name 'docker-*.img' -delete
    mv "$SCRATCH/docker.img" "$DOCKER_DISK"
}

# node_image: the IDs of the node image of this checkout and of its base, built where need be.
node_image() { "$ROOT/.venv/bin/python" "$ROOT/scripts/netem-vm.d/node_image.py" host; }
