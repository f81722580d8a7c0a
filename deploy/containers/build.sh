#!/bin/sh
# Builds both images: deploy/containers/build.sh MUSTER CLAUDE [ARGUMENTS OF BUILD...]
#
#   deploy/containers/build.sh target/release/muster "$(harness/claude/install.sh latest)"
#   BUILDER='docker' deploy/containers/build.sh ...
#
# CLAUDE is the native program that goes into the worker's image. Tags: localhost/muster-controller and localhost/muster-worker,
# each :VERSION and :latest; TAG_PREFIX replaces `localhost/muster`. BUILDER is the command, `podman` by default.
set -eu

die() { echo "build.sh: $*" >&2; exit 1; }

[ $# -ge 2 ] || die "usage: build.sh MUSTER CLAUDE [ARGUMENTS...]"
muster=$1 claude=$2
shift 2
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
for program in "$muster" "$claude"; do [ -x "$program" ] || die "$program is no program"; done
version=$("$muster" --version | cut -d' ' -f2)
prefix=${TAG_PREFIX:-localhost/muster}

context=$(mktemp -d)
trap 'rm -rf -- "$context"' EXIT
cp -- "$here/Containerfile" "$context/"
cp -L -- "$muster" "$context/muster"
cp -L -- "$claude" "$context/claude"
for role in controller worker; do
    # shellcheck disable=SC2086 # BUILDER may hold options
    ${BUILDER:-podman} build "$@" --target "$role" -f "$context/Containerfile" \
        -t "$prefix-$role:$version" -t "$prefix-$role:latest" "$context"
done
