# Sourced by the tests of deploy/: names, counts and reports what each finds. Each test is a shell function; `run NAME` runs
# it in a folder of its own ($T) with errors fatal, and `finish` ends with what failed.
# shellcheck shell=sh

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
deploy=$(dirname -- "$here")
repo=$(dirname -- "$deploy")
scratch=$(mktemp -d)
passed=0 failed=0 skipped=0
export deploy repo

# shellcheck disable=SC2317,SC2329 # called by the trap
clean_up() { rm -rf -- "$scratch"; }
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() { echo "    $*" >&2; exit 1; }

# What runs inside `if` or `||` ignores `set -e`: so each test is a process of its own, and its code is looked at after.
run() {
    T=$scratch/$1
    mkdir "$T"
    (set -eu; cd "$T"; "$1") >"$scratch/out" 2>&1
    code=$?
    case $code in
        0) passed=$((passed + 1)); echo "ok      $1" ;;
        77) skipped=$((skipped + 1)); echo "SKIPPED $1: $(tail -1 "$scratch/out")" ;;
        *) failed=$((failed + 1)); echo "FAILED  $1 ($code)"; sed 's/^/    /' "$scratch/out" ;;
    esac
}

finish() {
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" = 0 ]
}

# The command must end with the code; its output is in $T/said.
ends_with() {
    want=$1; shift
    got=0
    "$@" >"$T/said" 2>&1 || got=$?
    [ "$got" = "$want" ] || { cat "$T/said"; fail "ended with $got, not $want: $*"; }
}

says() { grep -q -e "$1" "$T/said" || { cat "$T/said"; fail "did not say: $1"; }; }
is() { [ "$1" = "$2" ] || fail "is '$1', not '$2'"; }
there() { for path in "$@"; do [ -e "$path" ] || fail "missing: $path"; done; }
absent() { for path in "$@"; do [ ! -e "$path" ] || fail "still there: $path"; done; }

# Everything below a folder: names, modes, times of change, contents.
state_of() { (cd "$1" && find . -printf '%p %m %T@ %y\n' | sort && find . -type f -exec sha256sum {} + | sort); }
