#!/bin/sh
# Installs the benchmark's tools from Debian's packages, and builds the Go original and gauge. Needs
# Debian and root, and takes about a minute. Does not use the Go module proxy.
#
# --gateways also installs LiteLLM (PyPI) and Portkey's gateway (npm) below bench/.build: some
# hundred megabytes, which need Python 3 and Node 18 or newer. --gateways-only installs nothing else,
# --build-only builds the Go programs again; neither needs root.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$here/.build"

tools() {
    if [ "$(id -u)" -ne 0 ]; then
        echo "bench/install.sh: needs root to install Debian packages; run it with sudo" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends \
        wrk nginx-light golang-go golang-github-gin-gonic-gin-dev golang-golang-x-time-dev
}

build() {
    # Debian keeps Go libraries as sources under one GOPATH, so module mode stays off.
    export GO111MODULE=off GOPATH=/usr/share/gocode GOFLAGS= CGO_ENABLED=0
    (cd "$here" && go build -o .build/original original.go)
    (cd "$here/gauge" && go build -o ../.build/gauge .)
    # The benchmark refuses programs that were built from other sources.
    (cd "$here" && sha256sum <original.go >.build/original.sum)
    (cd "$here/gauge" && LC_ALL=C && export LC_ALL && cat ./*.go | sha256sum >../.build/gauge.sum)
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
        echo "bench/install.sh: npm is missing, so Portkey's gateway is not installed" >&2
    fi
}

case "${1:-}" in
    "") tools; build ;;
    --gateways) tools; build; gateways ;;
    --gateways-only) gateways ;;
    --build-only) build ;;
    *) echo "usage: bench/install.sh [--gateways|--gateways-only|--build-only]" >&2; exit 2 ;;
esac
