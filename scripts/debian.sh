# shellcheck shell=bash
# A bare Debian system in a folder, from the mirrors that this machine knows. Sourced, after lib.sh.
# Whoever sources it sets SUITE. It makes neither images nor disks: base-image and netem-vm do.

# host_sources: what apt on this host knows of our suite, one "URI RELEASE FILE" a line, whichever
# of apt's two formats it is written in. These mirrors may be the only ones in reach.
host_sources() {
    # shellcheck disable=SC2016 # apt fills these in, not the shell
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(SOURCESENTRY)' \
        'Created-By: Packages' 2>/dev/null |
        awk -v suite="$SUITE" '$2 ~ "^" suite && $3 == "main" { sub(/:[0-9]+$/, "", $4); print $1, $2, $4 }' |
        sort -u -k 2,2
}

# keyring_of FILE: the keyring that this sources file names, if it names one by path.
keyring_of() { grep -ohP '(?i)signed-by[:=]\s*\K/[^\s\]]+' "$1" 2>/dev/null | head -n 1 || true; }

# need_debootstrap FOR: install it where that may be, else end here.
need_debootstrap() {
    is_root || lack "debootstrap needs root to build $1" "as root: $0"
    if ! have debootstrap; then
        may_install || lack "debootstrap is not installed" "apt-get install debootstrap"
        apt_install debootstrap debian-archive-keyring
    elif is_debian_like && [[ -z $(host_sources) ]]; then
        apt-get update -qq >/dev/null 2>&1 || true # without its lists apt does not know its suites
    fi
}

# bootstrap WHAT DIR LOG PACKAGES: the bare system; PACKAGES as debootstrap lists them.
bootstrap() {
    local what=$1 root=$2 log=$3 packages=$4 mirror='' file='' keyring='' arguments
    read -r mirror _ file < <(host_sources | awk -v suite="$SUITE" '$2 == suite') || true
    arguments=(--variant=minbase "--include=$packages")
    # On another distribution apt names no such mirror, and debootstrap knows its own.
    [[ -z $file ]] || keyring=$(keyring_of "$file")
    [[ -z $keyring ]] || arguments+=("--keyring=$keyring")
    say "building $what from Debian's packages: debootstrap $SUITE $mirror (about a minute)"
    debootstrap "${arguments[@]}" "$SUITE" "$root" ${mirror:+"$mirror"} >"$log" 2>&1 && return
    tail -n 20 "$log" >&2
    lack "debootstrap could not make $what" "see the lines above; is the mirror reachable (apt-get update)?"
}

# copy_sources DIR: debootstrap names one source; this adds the host's for security and updates.
copy_sources() {
    local root=$1 uri release file keyring
    while read -r uri release file; do
        keyring=$(keyring_of "$file")
        [[ -z $keyring ]] || install -D -m 0644 "$keyring" "$root$keyring"
        printf 'deb %s%s %s main\n' "${keyring:+[signed-by=$keyring] }" "$uri" "$release"
    done < <(host_sources) >"$root/sources.new"
    [[ ! -s $root/sources.new ]] || cp "$root/sources.new" "$root/etc/apt/sources.list"
    rm "$root/sources.new"
}

# trust_site_cas DIR: what the host trusts beyond Debian's own list, the system trusts too.
trust_site_cas() {
    local root=$1 folder=/usr/local/share/ca-certificates bundle=/etc/ssl/certs/ca-certificates.crt
    find "$folder" -name '*.crt' -exec cp -L -t "$root$folder" {} + 2>/dev/null || true
    chroot "$root" update-ca-certificates >/dev/null 2>&1
    # A bundle that somebody edited in place says more than the folder it is made from.
    if [[ -s $bundle ]] && ! cmp -s "$bundle" "$root$bundle"; then
        install -m 0644 "$bundle" "$root$bundle"
    fi
}
