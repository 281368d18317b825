#!/bin/sh
# Installs what the benchmark needs, from Debian's own packages, and builds the Go original and the
# gauge. Debian only; needs root. Takes about a minute. Nothing comes from the Go module proxy.
#
# With --gateways, LiteLLM (PyPI) and Portkey's gateway (npm) too, below bench/.build; they are
# some hundred megabytes, and need Python 3 and Node 18 or newer. That alone needs no root:
# --gateways-only.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$here/.build"

tools() {
    if [ "$(id -u)" -ne 0 ]; then
        echo "bench/install.sh: needs root, it installs Debian packages; run it with sudo" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends \
        wrk nginx-light golang-go golang-github-gin-gonic-gin-dev golang-golang-x-time-dev

    # Debian keeps Go libraries as sources under one GOPATH, so module mode stays off.
    export GO111MODULE=off GOPATH=/usr/share/gocode GOFLAGS= CGO_ENABLED=0
    (cd "$here" && go build -o .build/original original.go)
    (cd "$here/gauge" && go build -o ../.build/gauge .)
    echo "built bench/.build/original and bench/.build/gauge with $(go version)"
}

gateways() {
    python3 -m venv "$here/.build/litellm"
    "$here/.build/litellm/bin/pip" install --quiet 'litellm[proxy]'
    if command -v npm >/dev/null; then
        mkdir -p "$here/.build/portkey"
        npm install --silent --no-fund --no-audit --prefix "$here/.build/portkey" \
            @portkey-ai/gateway
    else
        echo "bench/install.sh: no npm, so Portkey's gateway is left out" >&2
    fi
}

case "${1:-}" in
    "") tools ;;
    --gateways) tools && gateways ;;
    --gateways-only) gateways ;;
    *) echo "usage: bench/install.sh [--gateways|--gateways-only]" >&2; exit 2 ;;
esac
