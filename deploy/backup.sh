#!/bin/sh
# Backs up a controller while it runs, and restores it:
#
#   backup.sh save STATE_FOLDER FILE.tar.gz     the controller may run; nothing is asked of it
#   backup.sh verify FILE.tar.gz                whether the file is whole
#   backup.sh restore FILE.tar.gz STATE_FOLDER  into a folder that is not there yet, or empty
#
# What is kept: records (the store's snapshot and journal, never its index, which is made again), the farm's certificate authority
# and the key of its tokens, and the sessions' output. What a restore means for sessions is in docs/operate/backup.md.
#
# THE FILE HOLDS THE KEY OF THE FARM'S AUTHORITY: whoever reads it can be any worker. It is written with mode 0600.
set -eu

die() { echo "backup.sh: $*" >&2; exit 1; }
usage() { sed -n '2,7s/^# \{0,1\}//p' "$0"; }

work=
finish() { if [ -n "$work" ]; then rm -rf -- "$work"; fi; }
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
umask 077

# Copies the store as of one moment. Journals only grow, and a batch that is copied in part was not acknowledged when the copy
# began, so it is cut at the next start. A checkpoint replaces files: then the names differ afterwards, and it is done again.
copy_store() { # from, to
    tries=0
    while :; do
        rm -rf -- "$2"
        mkdir -- "$2"
        before=$(cd "$1" && ls)
        copied=1
        for part in "$1"/snapshot-* "$1"/journal-*; do
            case ${part##*-} in *[!0-9]*) continue ;; esac
            cp -p -- "$part" "$2/" 2>/dev/null || copied=
        done
        if [ -n "$copied" ] && [ "$before" = "$(cd "$1" && ls)" ]; then return 0; fi
        tries=$((tries + 1))
        [ $tries -lt 100 ] || die "$1 changes faster than it can be copied; try again"
    done
}

save() { # state folder, file
    state=${1%/} file=$2
    [ -d "$state/store" ] || die "$state is no state folder of a controller: it has no store/"
    case $file in *.tar.gz) ;; *) die "$file must end in .tar.gz" ;; esac
    work=$(mktemp -d -- "$(dirname -- "$file")/.backup.XXXXXX")
    mkdir "$work/muster"
    copy_store "$state/store" "$work/muster/store"
    [ -n "$(ls "$work/muster/store")" ] || die "$state/store holds no journal: has this controller ever started?"
    # After the store: what it speaks of is then there. What is written meanwhile comes again from the workers.
    code=0
    tar -C "$state" --exclude=./store --exclude=./controller.lock -cf "$work/rest.tar" . 2>"$work/said" || code=$?
    # 1: something grew, or was forgotten, while it was read.
    [ $code -le 1 ] || { cat "$work/said" >&2; die "$state cannot be read whole"; }
    tar -C "$work/muster" -xpf "$work/rest.tar"
    (cd "$work/muster" && find . -type f -exec sha256sum {} +) >"$work/sums"
    mv -- "$work/sums" "$work/muster/SHA256SUMS"
    tar -C "$work" -czf "$work/file" muster
    sync -- "$work/file" 2>/dev/null || sync
    mv -f -- "$work/file" "$file"
    echo "saved $file"
}

unpack() { # file, folder: every file as it was saved
    [ -f "$1" ] || die "$1 is no file"
    if tar -tzf "$1" | grep -q -v '^muster/' || tar -tzf "$1" | grep -q '\(^\|/\)\.\.\(/\|$\)'; then die "$1 is no backup"; fi
    tar -C "$2" -xzpf "$1" || die "$1 cannot be unpacked"
    [ -f "$2/muster/SHA256SUMS" ] || die "$1 is no backup"
    (cd "$2/muster" && sha256sum --quiet --check SHA256SUMS) || die "$1 is damaged"
}

verify() {
    work=$(mktemp -d)
    unpack "$1" "$work"
    echo "$1 is whole"
}

restore() { # file, state folder
    state=${2%/}
    if [ -e "$state" ] && [ -n "$(ls -A -- "$state")" ]; then
        die "$state is not empty. Stop the controller and move the folder away first; keep it until you have looked"
    fi
    mkdir -p -- "$(dirname -- "$state")"
    work=$(mktemp -d -- "$(dirname -- "$state")/.restore.XXXXXX")
    unpack "$1" "$work"
    rm -f -- "$work/muster/SHA256SUMS"
    # The owner of the place it goes to, when there is one already.
    if [ -d "$state" ]; then
        chown -R -- "$(stat -c %u:%g "$state")" "$work/muster" 2>/dev/null || :
        rmdir -- "$state"
    fi
    mv -- "$work/muster" "$state"
    echo "restored $state"
}

case ${1:-}:$# in
    save:3) save "$2" "$3" ;;
    verify:2) verify "$2" ;;
    restore:3) restore "$2" "$3" ;;
    --help:1 | -h:1) usage ;;
    *) usage >&2; exit 2 ;;
esac
