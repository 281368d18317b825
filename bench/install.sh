#!/bin/sh
# Installs what bench/quick.py needs, from Debian's own packages, and builds the Go original.
# Debian only; needs root. Takes about a minute. Nothing is fetched from the Go module proxy.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

if [ "$(id -u)" -ne 0 ]; then
    echo "bench/install.sh: needs root, it installs Debian packages; run it with sudo" >&2
    exit 1
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends \
    wrk nginx-light golang-go golang-github-gin-gonic-gin-dev golang-golang-x-time-dev

# Debian keeps Go libraries as sources under one GOPATH, so module mode stays off.
mkdir -p "$here/.build"
cd "$here"
GO111MODULE=off GOPATH=/usr/share/gocode GOFLAGS= CGO_ENABLED=0 \
    go build -o .build/original original.go
echo "built bench/.build/original with $(go version)"
