#!/bin/sh
# Installs the Debian packages whose programs the tests use and that this machine lacks; changes nothing when all are
# there. Where it may not install, it says what is missing: the tests that need it say loudly that they are skipped.
#
#   harness/packages.sh
set -eu

wanted=
want() { # program, package
    command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ] || wanted="$wanted $2"
}
want git git
want ip iproute2
want nsenter util-linux
want tmux tmux
[ -n "$wanted" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    apt-get update -qq >&2
    # shellcheck disable=SC2086 # a list of names
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted >&2
else
    echo "packages.sh: missing and not installed:$wanted; some tests will be skipped" >&2
fi
