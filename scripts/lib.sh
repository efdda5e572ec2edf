# shellcheck shell=bash
# Functions that the scripts beside this file share. Sourced, never run.
# It holds what a script says, how it finds its way, and how it asks apt for a package.

# shellcheck disable=SC2034 # for those who source this
# The repository root, so that every script works from any directory.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# The exit status of "this machine lacks something", as in `deploy`.
readonly LACKING=3

# Debian leaves these out of the PATH of plain users, and of root after `su`; tc and dockerd live here.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() { printf '\033[2m==>\033[0m %s\n' "$*" >&2; }
# No escape codes in a log file.
[[ -t 2 ]] || say() { printf '==> %s\n' "$*" >&2; }

# lack WHAT REMEDY: end with status 3, naming the remedy.
lack() {
    printf 'error: %s\n  remedy: %s\n' "$1" "$2" >&2
    exit "$LACKING"
}

# usage_error MESSAGE: the command line is wrong.
usage_error() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit 2
}

have() { command -v "$1" >/dev/null 2>&1; }

is_root() { [[ $(id -u) -eq 0 ]]; }

# Whether this is a distribution whose package names we know.
is_debian_like() {
    [[ -r /etc/os-release ]] || return 1
    # shellcheck disable=SC1091
    (. /etc/os-release && [[ " $ID ${ID_LIKE:-} " =~ \ (debian|ubuntu)\  ]]) && have apt-get
}

# Whether packages may be and can be installed here. Every script's --no-install sets the variable,
# so that it also holds for the scripts that it calls.
may_install() { [[ ${PEERBED_NO_INSTALL:-} != 1 ]] && is_root && is_debian_like; }

# apt_install PACKAGE...: quietly, and with apt's own words when it fails.
apt_install() {
    say "installing from the distribution: $*"
    local log
    log=$(mktemp)
    # One dead source among several makes `update` fail, and need not matter.
    if ! { apt-get update -qq || true && DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=120 "$@"; } \
        >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        lack "apt-get could not install: $*" "install it by hand, then run this again"
    fi
    rm -f "$log"
}

# apt_first PACKAGE...: the first one that this distribution has.
apt_first() {
    local package
    for package in "$@"; do
        # No pipe into `grep -q`: it ends at the match, and apt-cache then fails on the closed pipe.
        if [[ $(apt-cache policy "$package" 2>/dev/null) =~ Candidate:\ [^\(] ]]; then
            printf '%s\n' "$package"
            return
        fi
    done
    return 1
}
