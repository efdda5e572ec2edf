# shellcheck shell=bash
# What the guest does. Sourced there, in the checkout, by the job that scripts/netem-vm wrote.

export PEERBED_REQUIRE_LINKS=1 PEERBED_REQUIRE_NETEM=1 PEERBED_REQUIRE_DOCKER=1

# The host's tests do those of the delay line; here it is netem's turn.
links() {
    python3 -m pytest -p no:cacheprovider --junit-xml /out/links.xml -k "not nfqueue" \
        tests/links "$@"
}

smoke() {
    start_engine || return
    name_image || return
    python3 -m pytest -p no:cacheprovider --junit-xml /out/smoke.xml --basetemp /out/smoke \
        tests/docker/test_smoke.py "$@"
}

name_image() { python3 scripts/netem-vm.d/node_image.py guest; }

start_engine() {
    modprobe -a overlay br_netfilter
    dockerd >/out/dockerd.log 2>&1 &
    engine=$!
    until docker version >/dev/null 2>&1; do
        kill -0 "$engine" || { tail -n 20 /out/dockerd.log; return 1; }
        sleep 0.2
    done
    echo "Docker engine $(docker version --format '{{.Server.Version}}') answers after $(cut -d ' ' -f 1 /proc/uptime) s"
}
