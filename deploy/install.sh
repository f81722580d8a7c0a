#!/bin/sh
# Installs muster on this machine from a release archive, or upgrades it, or takes it away again.
#
#   install.sh --from ARCHIVE|URL [--sha256 HEX] [--system | --user] [--join FILE|-] [--enable worker|controller]... [--dry-run]
#   install.sh --uninstall [--purge] [--system | --user] [--dry-run]
#
# Safe to repeat: what is there already stays as it is. Your settings are never overwritten, and sessions that run live
# through an upgrade. Owns the files named in its manifest and no others. `--help` tells the options.
set -eu

say() { printf '%s\n' "$*"; }
warn() { printf 'install.sh: %s\n' "$*" >&2; }
die() { warn "$*"; exit 1; }

usage() {
    cat <<'TEXT'
Installs muster from a release archive, upgrades it, or takes it away again.

  install.sh --from ARCHIVE|URL [options]
  install.sh --uninstall [--purge] [options]

  --from ARCHIVE|URL   the archive: a file, or an https URL. Also MUSTER_INSTALL_FROM
  --sha256 HEX         what its SHA-256 must be. Also MUSTER_INSTALL_SHA256. Default: the line for it in the file
                       SHA256SUMS beside it; without either nothing is installed
  --system             for the machine, as root, with services for systemd (default for root)
  --user               for you alone, below your home (default for everybody else)
  --join FILE|-        make this machine a worker of the farm whose join token (`muster token create`) is in FILE or on
                       stdin, and start it; a machine that has joined stays what it is
  --enable ROLE        start the service `worker` or `controller` now and at every boot; may be repeated
  --uninstall          stop the services, END THE SESSIONS that run here, remove the program; settings and data stay
  --purge              with --uninstall: remove settings and data too: sessions, their output and their work
  --root DIR           install below DIR, for images; no service is touched
  --dry-run            say what would be done, do nothing

Exit codes: 0 done, 1 it failed, 2 the command line cannot be taken.
TEXT
}

wrong() { warn "$*"; warn "try --help"; exit 2; }

parse() {
    from=${MUSTER_INSTALL_FROM:-} sha=${MUSTER_INSTALL_SHA256:-}
    scope='' enable='' join='' uninstall='' purge='' root='' dry=''
    while [ $# -gt 0 ]; do
        case $1 in
            --from | --sha256 | --join | --enable | --root) [ $# -ge 2 ] || wrong "$1 needs a value" ;;
        esac
        case $1 in
            --from) from=$2; shift ;;
            --sha256) sha=$2; shift ;;
            --system | --user) scope=${1#--} ;;
            --join) join=$2; shift
                if [ "$join" != - ] && [ ! -f "$join" ]; then wrong "--join: $join is no file"; fi ;;
            --enable)
                case $2 in worker | controller) enable="$enable $2" ;; *) wrong "no service is named $2" ;; esac
                shift ;;
            --uninstall) uninstall=1 ;;
            --purge) purge=1 ;;
            --root) root=${2%/}; shift
                case $root in /*) ;; *) wrong "--root must be an absolute path" ;; esac ;;
            --dry-run) dry=1 ;;
            -h | --help) usage; exit 0 ;;
            *) wrong "unknown argument: $1" ;;
        esac
        shift
    done
    if [ -z "$scope" ]; then
        if [ "$(id -u)" = 0 ]; then scope=system; else scope=user; fi
    fi
    if [ -n "$purge" ] && [ -z "$uninstall" ]; then wrong "--purge goes with --uninstall"; fi
    if [ -n "$uninstall" ]; then
        [ -z "$enable$join" ] || wrong "--enable and --join do not go with --uninstall"
    else
        [ -n "$from" ] || wrong "--from is missing: which archive?"
        if [ -n "$join" ]; then
            [ -z "$root" ] || wrong "--join is for a machine that runs, not for one below --root"
            case $enable in *worker*) ;; *) enable="$enable worker" ;; esac
        fi
    fi
    if [ "$scope" = user ]; then
        case $enable in *controller*) wrong "a controller is a service of the machine: --system" ;; esac
    fi
    sha=$(printf %s "$sha" | tr 'A-F' 'a-f')
    case $sha in *[!0-9a-f]*) wrong "--sha256 is not hexadecimal" ;; esac
    case ${#sha} in 0 | 64) ;; *) wrong "--sha256 has ${#sha} digits, and must have 64" ;; esac
}

# Where things go.
places() {
    if [ "$scope" = system ]; then
        if [ -z "$root" ] && [ -z "$dry" ] && [ "$(id -u)" != 0 ]; then die "--system needs root; or use --user"; fi
        bin=/usr/local/bin units=/usr/local/lib/systemd/system share=/usr/local/share/muster
        sysusers=/usr/local/lib/sysusers.d settings=/etc/muster
        data='/var/lib/muster /var/lib/muster-controller'
    else
        [ -n "${HOME:-}" ] || die "HOME is not set"
        bin=$HOME/.local/bin units=${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user
        share=${XDG_DATA_HOME:-$HOME/.local/share}/muster sysusers=
        settings=${XDG_CONFIG_HOME:-$HOME/.config}/muster
        data=${XDG_STATE_HOME:-$HOME/.local/state}/muster
    fi
    # They end up in unit files and in lists whose separator is a space.
    case $root$bin$units$share$settings$data in
        *[!A-Za-z0-9/._+@\ -]*) die "a path holds characters that unit files give a meaning of their own" ;;
    esac
    case $root$bin$units$share$settings in *\ *) die "a path holds a space" ;; esac
    manifest=$share/manifest
}

# Whether services can be touched.
manager() {
    if [ -n "$root" ] || ! command -v systemctl >/dev/null 2>&1; then return 1; fi
    if [ "$scope" = system ]; then
        [ -d /run/systemd/system ]
    else
        systemctl --user show-environment >/dev/null 2>&1
    fi
}

service() { if [ "$scope" = user ]; then systemctl --user "$@"; else systemctl "$@"; fi; }

act() { # words shown, then the command
    words=$1; shift
    if [ -n "$dry" ]; then say "would $words"; return 0; fi
    say "$words"
    "$@"
}

put_file() { # mode, source, destination: whole or not at all
    mkdir -p -- "$(dirname -- "$3")"
    cp -- "$2" "$3.new.$$"
    chmod "$1" "$3.new.$$"
    mv -f -- "$3.new.$$" "$3"
}

put() { # mode, source, destination below the root
    printf '%s\n' "$3" >>"$work/manifest"
    if cmp -s -- "$2" "$root$3"; then return 0; fi
    changed=1
    act "install $root$3" put_file "$1" "$2" "$root$3"
}

put_settings() { # mode, source, destination: only where there is none
    [ -e "$root$3" ] || act "write $root$3" put_file "$1" "$2" "$root$3"
}

download() { # URL, file
    if command -v curl >/dev/null 2>&1; then
        curl --fail --silent --show-error --location --proto '=https,http' --max-time 600 --retry 3 -o "$2" -- "$1"
    elif command -v wget >/dev/null 2>&1; then
        wget --quiet --tries=3 --timeout=60 -O "$2" -- "$1"
    else
        die "neither curl nor wget is here to get $1"
    fi
}

fetch() { # leaves the archive in $archive and its checksum, verified
    name=${from##*/}
    case $from in
        https://* | http://*)
            case $from in http://*) [ -n "$sha" ] || die "over plain http the checksum must be given: --sha256" ;; esac
            archive=$work/$name
            say "get $from"
            download "$from" "$archive" || die "$from cannot be got"
            [ -n "$sha" ] || download "${from%/*}/SHA256SUMS" "$work/SHA256SUMS" ||
                die "there is no checksum: neither --sha256 nor ${from%/*}/SHA256SUMS"
            sums=$work/SHA256SUMS ;;
        *://*) die "cannot get $from: only files and https URLs" ;;
        *)
            [ -f "$from" ] || die "$from is no file"
            archive=$work/$name
            cp -- "$from" "$archive" # what is checked is what is unpacked
            sums=$(dirname -- "$from")/SHA256SUMS ;;
    esac
    if [ -z "$sha" ]; then
        [ -f "$sums" ] || die "there is no checksum: neither --sha256 nor $sums"
        sha=$(awk -v name="$name" '{ file = $2; sub(/^\*/, "", file); if (file == name) print tolower($1) }' "$sums")
        [ ${#sha} = 64 ] || die "SHA256SUMS has no line, or more than one, for $name"
    fi
    found=$(sha256sum -- "$archive" | cut -d' ' -f1)
    [ "$found" = "$sha" ] || die "$from is not what it should be: its SHA-256 is $found, not $sha. Nothing was changed"
}

unpack() { # leaves the folder in $tree
    tar -tzf "$archive" >"$work/list" || die "$from is no archive"
    if grep -q -e '^/' -e '\(^\|/\)\.\.\(/\|$\)' "$work/list"; then die "$from holds paths that lead out of it"; fi
    if tar -tvzf "$archive" | grep -q '^[^d-]'; then die "$from holds something that is no file"; fi
    mkdir "$work/tree"
    tar -xzf "$archive" -C "$work/tree" --no-same-owner
    tree=$(echo "$work"/tree/muster-*)
    [ -f "$tree/muster" ] || die "$from holds no muster"
    version=$("$tree/muster" --version 2>&1) || die "the program in $from does not run here: $version"
}

unit() { # name, file: with the path of the program as it is here
    sed "s|/usr/bin/muster|$bin/muster|g" "$tree/systemd/$1" >"$work/unit"
    put 644 "$work/unit" "$units/$2"
}

install_it() {
    changed=
    fetch
    unpack
    put 755 "$tree/muster" "$bin/muster"
    if [ "$scope" = system ]; then
        unit muster-controller.service muster-controller.service
        unit muster-worker.service muster-worker.service
        put 644 "$tree/systemd/muster.sysusers" "$sysusers/muster.conf"
        put_settings 644 "$tree/etc/controller.toml" "$settings/controller.toml"
        put_settings 644 "$tree/etc/worker.toml" "$settings/worker.toml"
        put_settings 600 "$tree/etc/worker.env" "$settings/worker.env"
    else
        unit user/muster-worker.service muster-worker.service
        sed 's|^state-dir|#state-dir|; s|/var/lib/muster|/home/you|' "$tree/etc/worker.toml" >"$work/worker.toml"
        put_settings 644 "$work/worker.toml" "$settings/worker.toml"
        put_settings 600 "$tree/etc/worker.env" "$settings/worker.env"
    fi
    for file in "$tree"/systemd/examples/*; do put 644 "$file" "$share/examples/${file##*/}"; done
    put 755 "$tree/install.sh" "$share/install.sh"
    drop_old
    cmp -s "$work/manifest" "$root$manifest" || act "note what is installed" put_file 644 "$work/manifest" "$root$manifest"
    say "$version is in $root$bin/muster"
    start_it
}

drop_old() { # files of an earlier version that this one has no more
    [ -f "$root$manifest" ] || return 0
    while IFS= read -r file; do
        grep -qxF -e "$file" "$work/manifest" || act "remove $root$file" rm -f -- "$root$file"
    done <"$root$manifest"
}

start_it() {
    if [ "$scope" = system ]; then
        if ! command -v systemd-sysusers >/dev/null 2>&1; then
            warn "systemd-sysusers is missing: make the users named in $sysusers/muster.conf yourself"
        elif [ -z "$root" ] && ! id muster muster-controller >/dev/null 2>&1; then
            act "make the users muster and muster-controller" systemd-sysusers muster.conf
        fi
    fi
    if [ -n "$join" ]; then join_it; fi
    if ! manager; then
        [ -z "$enable" ] || die "no systemd to enable a service with: start \`muster$enable\` by other means"
        return 0
    fi
    if [ -n "$changed" ]; then
        act "reload systemd" service daemon-reload
        # Sessions go on: see the unit.
        for role in controller worker; do
            if service --quiet is-active "muster-$role.service" 2>/dev/null; then
                act "restart muster-$role" service restart "muster-$role.service"
            fi
        done
    fi
    for role in $enable; do
        if service --quiet is-enabled "muster-$role.service" 2>/dev/null &&
            service --quiet is-active "muster-$role.service" 2>/dev/null; then continue; fi
        act "enable muster-$role" service enable --now "muster-$role.service"
    done
    if [ "$scope" = user ] && [ -n "$enable" ] && command -v loginctl >/dev/null 2>&1; then
        act "keep your services when you log out" loginctl enable-linger ||
            warn "ask an administrator for \`loginctl enable-linger $(id -un)\`: without it sessions end when you log out"
    fi
    if [ -z "$enable" ] && [ -z "$dry" ]; then say "settings: $settings; then: install.sh again with --enable, or systemctl"; fi
}

# The token goes by stdin: other users of a machine can see a command line.
join_it() {
    if [ "$scope" = system ]; then member=/var/lib/muster/worker/identity/member.json
    else member=${XDG_STATE_HOME:-$HOME/.local/state}/muster/joined/identity/member.json; fi
    if [ -e "$member" ]; then
        say "this machine has joined already ($member)"
        return 0
    fi
    if [ "$join" != - ] && [ -z "$dry" ]; then exec <"$join"; fi
    if [ "$scope" = system ]; then
        act "make /var/lib/muster" install -d -m 700 -o muster -g muster /var/lib/muster
        act "join the farm" runuser -u muster -- "$bin/muster" worker join --enrol-only --config "$settings/worker.toml" -
    else
        act "join the farm" "$bin/muster" worker join --enrol-only --config "$settings/worker.toml" -
    fi
}

remove_it() {
    if manager; then
        for role in worker controller; do
            if service cat "muster-$role.service" >/dev/null 2>&1; then
                act "stop muster-$role" service disable --now "muster-$role.service"
            fi
        done
        # What the worker left running on purpose.
        if service cat muster-worker.service >/dev/null 2>&1; then
            act "end the sessions" service kill --signal=KILL muster-worker.service 2>/dev/null || :
        fi
    fi
    if [ -f "$root$manifest" ]; then
        while IFS= read -r file; do
            if [ -e "$root$file" ]; then act "remove $root$file" rm -f -- "$root$file"; fi
        done <"$root$manifest"
        act "forget what was installed" rm -f -- "$root$manifest"
        if [ -z "$dry" ]; then rmdir -- "$root$share/examples" "$root$share" 2>/dev/null || :; fi
    else
        say "nothing is installed ($root$manifest is not there)"
    fi
    if manager; then act "reload systemd" service daemon-reload; fi
    if [ -n "$purge" ]; then
        for folder in $settings $data; do
            if [ -e "$root$folder" ]; then act "remove $root$folder" rm -rf -- "$root$folder"; fi
        done
    fi
}

main() {
    parse "$@"
    places
    umask 022
    work=$(mktemp -d)
    trap 'rm -rf -- "$work"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    if [ -n "$uninstall" ]; then remove_it; else install_it; fi
}

# Last, so that half a script does nothing.
main "$@"
