#!/bin/sh
# Makes the Debian package from a built program: deploy/debian/build.sh target/release/muster dist
#
# Needs dpkg-deb alone, and runs as anybody. MUSTER_DEB_VERSION overrides the version (for tests of upgrades),
# MUSTER_DEB_COMPRESSION the compression (xz). The same input gives the same bytes.
set -eu

die() { echo "build.sh: $*" >&2; exit 1; }

[ $# -eq 2 ] || die "usage: build.sh BINARY FOLDER"
binary=$1 out=$2
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
deploy=$(dirname -- "$here")
repo=$(dirname -- "$deploy")
[ -x "$binary" ] || die "$binary is no program"
version=${MUSTER_DEB_VERSION:-$("$binary" --version | cut -d' ' -f2)}
arch=$(dpkg --print-architecture)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$repo" log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
# The newest symbol it needs decides; the program is linked with nothing else of the system.
libc=$(grep -ao 'GLIBC_2\.[0-9][0-9]*' "$binary" | sort -uV | tail -1)
[ -n "$libc" ] || die "cannot tell which libc6 $binary needs"

umask 022
root=$(mktemp -d)
chmod 755 "$root"
trap 'rm -rf -- "$root"' EXIT
put() { install -D -m "$1" "$2" "$root$3"; }
put 755 "$binary" /usr/bin/muster
for role in controller worker; do
    put 644 "$deploy/systemd/muster-$role.service" "/lib/systemd/system/muster-$role.service"
    put 644 "$deploy/etc/$role.toml" "/etc/muster/$role.toml"
done
put 600 "$deploy/etc/worker.env" /etc/muster/worker.env
put 644 "$deploy/systemd/user/muster-worker.service" /usr/lib/systemd/user/muster-worker.service
put 644 "$deploy/systemd/muster.sysusers" /usr/lib/sysusers.d/muster.conf
for example in "$deploy"/systemd/examples/*.conf; do
    put 644 "$example" "/usr/share/doc/muster/examples/${example##*/}"
done
put 644 "$here/copyright" /usr/share/doc/muster/copyright
put 644 "$repo/CHANGELOG.md" /usr/share/doc/muster/changelog
gzip -9n "$root/usr/share/doc/muster/changelog"
completion() {
    install -d "$root$(dirname "$2")"
    "$binary" completion "$1" >"$root$2"
}
completion bash /usr/share/bash-completion/completions/muster
completion zsh /usr/share/zsh/vendor-completions/_muster
completion fish /usr/share/fish/vendor_completions.d/muster.fish

install -d "$root/DEBIAN"
for script in postinst prerm postrm; do put 755 "$here/$script" "/DEBIAN/$script"; done
printf '/etc/muster/%s\n' controller.toml worker.toml worker.env >"$root/DEBIAN/conffiles"
size=$(du -sk --exclude=DEBIAN "$root" | cut -f1)
cat >"$root/DEBIAN/control" <<CONTROL
Package: muster
Version: $version
Architecture: $arch
Maintainer: The muster authors <noreply@muster.invalid>
Section: devel
Priority: optional
Installed-Size: $size
Depends: libc6 (>= ${libc#GLIBC_}), libgcc-s1, ca-certificates, git, systemd | systemd-standalone-sysusers
Description: runs many Claude Code sessions on many machines
 An orchestrating Claude, or any MCP client, spawns sessions; a controller
 places each on a worker; the worker runs the real claude there in its own git
 worktree. Sessions outlive restarts and upgrades of every part.
 .
 Neither service is enabled by installing: see /etc/muster. claude itself is
 not part of this package.
CONTROL
mkdir -p "$out"
deb=$out/muster_${version}_$arch.deb
dpkg-deb --root-owner-group -Z"${MUSTER_DEB_COMPRESSION:-xz}" --build "$root" "$deb.new" >/dev/null
mv -f -- "$deb.new" "$deb"
echo "$deb"
