#!/bin/sh
# Boots a real systemd in a container and tries the package and install.sh there, with sessions running:
#
#   deploy/tests/boot.sh target/debug/muster target/debug/scripted-claude
#
# Needs root and, of Debian, systemd-container and debootstrap. The system is made once, in .tools/deploy/base; each run boots a
# copy without any network. What is tried is boot/inside.sh. Takes two minutes on an idle machine, the first run three more.
set -eu

die() { echo "boot.sh: $*" >&2; exit 1; }

[ $# -eq 2 ] || die "usage: boot.sh MUSTER SCRIPTED_CLAUDE"
muster=$1 claude=$2
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
deploy=$(dirname -- "$here")
repo=$(dirname -- "$deploy")
base=$repo/.tools/deploy/base-2
[ "$(id -u)" = 0 ] || die "needs root"
for tool in systemd-nspawn debootstrap; do command -v $tool >/dev/null || die "$tool is missing (Debian: systemd-container, debootstrap)"; done
for program in "$muster" "$claude"; do [ -x "$program" ] || die "$program is no program"; done

if [ ! -d "$base" ]; then
    # shellcheck disable=SC2016 # apt's own names
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' | head -1)
    [ -n "$mirror" ] || die "apt knows no source of bookworm"
    rm -rf -- "$base.new"
    mkdir -p "$base.new"
    debootstrap --variant=minbase \
        --include=systemd,systemd-sysv,dbus,procps,git,ca-certificates \
        bookworm "$base.new" "$mirror" >"$base.log" 2>&1 || { tail "$base.log"; die "debootstrap failed"; }
    # By apt, which knows what one package offers for another.
    cp -L /etc/resolv.conf "$base.new/etc/resolv.conf"
    chroot "$base.new" sh -c 'apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends ansible-core' \
        >>"$base.log" 2>&1 </dev/null || { tail "$base.log"; die "ansible-core cannot be installed"; }
    rm "$base.new/etc/resolv.conf"
    mv -- "$base.new" "$base"
fi

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
cp -a -- "$base" "$work/root"
root=$work/root
mkdir "$root/test"
# Without what only a debugger reads: the package is made and unpacked several times.
strip -o "$work/muster" "$muster" 2>/dev/null || cp -- "$muster" "$work/muster"
chmod 755 "$work/muster"
install -m 755 "$claude" "$root/test/scripted-claude"
export MUSTER_DEB_COMPRESSION=none
for version in 1.0 1.1; do MUSTER_DEB_VERSION=$version "$deploy/debian/build.sh" "$work/muster" "$root/test" >/dev/null; done
"$deploy/archive.sh" "$work/muster" "$root/test" >/dev/null
install -m 755 "$deploy/install.sh" "$here/boot/inside.sh" "$root/test/"
cp -R "$deploy/ansible/roles" "$root/test/"
cat >"$root/etc/systemd/system/muster-test.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c '/test/inside.sh >/test/out 2>&1; echo $? >/test/code'
TimeoutStartSec=1140
ExecStopPost=/bin/systemctl --no-block poweroff
[Install]
WantedBy=multi-user.target
UNIT
ln -s ../muster-test.service "$root/etc/systemd/system/multi-user.target.wants/muster-test.service"
code=0
timeout 1200 systemd-nspawn --quiet --directory="$root" --register=no --keep-unit --private-network --boot \
    >"$work/console" 2>&1 </dev/null || code=$?
[ -f "$root/test/out" ] || { tail -40 "$work/console"; die "it did not boot ($code)"; }
cat "$root/test/out"
[ "$(cat "$root/test/code" 2>/dev/null)" = 0 ] || die "failed"
