# The image of one peerbed node: Python, PyTorch, tc and iptables, and the package `node`.
#
# It stands on the official Python image, or, where no registry is in reach, on what
# scripts/base-image makes. `deploy build` builds it with the host's wheel of PyTorch, package index
# and site CAs; `docker build -t peerbed-node:0.1.0 .` does with a registry and the open Internet.
# Nothing here needs BuildKit: the oldest engine that we support is 20.10.
ARG BASE=python:3.11-slim-bookworm

# What to install, written once in pyproject.toml. In a stage of its own, so that a change elsewhere
# in that file leaves the packages below in the cache.
FROM ${BASE} AS pins
LABEL peerbed.image=pins
COPY pyproject.toml /
RUN python3 -c "import tomllib; \
    project = tomllib.load(open('/pyproject.toml', 'rb'))['project']; \
    print(*project['dependencies'], *project['optional-dependencies']['train'], sep='\n')" \
    > /requirements.txt

# The system: the tools of the link agent, and the user that everything but the agent runs as.
# The container itself starts as root, and the agent gives its privileges up by itself.
FROM ${BASE} AS system
RUN set -eu; missing=; \
    for need in tc:iproute2 iptables:iptables ping:iputils-ping; do \
        command -v "${need%:*}" > /dev/null || missing="$missing ${need#*:}"; \
    done; \
    if [ -n "$missing" ]; then \
        apt-get update -qq; \
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; \
        rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt /var/log/dpkg.log; \
    fi; \
    groupadd --gid 10001 peerbed; \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin peerbed; \
    install -d -o peerbed -g peerbed /run/peerbed

# The packages, in a virtual environment that the last stage copies: pip, the wheel of PyTorch
# (200 MB) and the CAs that the build needs stay behind.
FROM system AS packages
LABEL peerbed.image=packages
# LICENSE is there because COPY fails where nothing matches, and these two folders may be missing.
COPY LICENSE wheels/* /build/wheels/
COPY LICENSE certs/* /build/certs/
COPY --from=pins /requirements.txt /build/
# Where PyTorch's CPU builds are, if not among the wheels; PyPI's own for x86 carries CUDA.
ARG TORCH_INDEX
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# torchvision goes without its dependencies, or it may bring a second PyTorch; what it really needs
# besides is Pillow. Jinja2 and networkx serve only PyTorch's compiler, and the folders removed only
# those who build or test PyTorch: 250 MB.
RUN set -eu; \
    if [ -s /build/certs/ca.crt ]; then export PIP_CERT=/build/certs/ca.crt; fi; \
    python3 -m venv /build/pip; \
    python3 -m venv --without-pip /opt/peerbed; \
    pip() { /build/pip/bin/pip --python /opt/peerbed/bin/python --disable-pip-version-check "$@"; }; \
    install() { pip install --quiet --no-cache-dir --root-user-action ignore \
        --find-links /build/wheels ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$@"; }; \
    grep -v '^torchvision' /build/requirements.txt > /build/with-dependencies.txt; \
    install -r /build/with-dependencies.txt pillow; \
    install --no-deps "$(grep '^torchvision' /build/requirements.txt)"; \
    pip uninstall --quiet --yes --root-user-action ignore Jinja2 MarkupSafe networkx setuptools; \
    cd /opt/peerbed/lib/python3*/site-packages/torch; \
    rm -rf test include; \
    find bin -type f ! -name torch_shm_manager -delete; \
    cd /; \
    /opt/peerbed/bin/python -c "import grpc, numpy, torch, PIL; print('torch', torch.__version__)"

FROM system
LABEL peerbed.image=node
COPY --from=packages /opt/peerbed /opt/peerbed
WORKDIR /opt/peerbed/src
COPY node node
# The unprivileged user cannot write byte code, and no one edits a file here: never look for a newer.
RUN ["/opt/peerbed/bin/python", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "node"]
# The node touches this file as long as its event loop turns. No Python here: it would cost each
# container a tenth of a second of processor time at each check.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD test -n "$(find /run/peerbed/heartbeat -mmin -0.5 2> /dev/null)"
ENTRYPOINT ["/opt/peerbed/bin/python", "-m", "node"]
