#!/bin/sh
# Makes the release archive that install.sh takes, and its line in SHA256SUMS.
#
#   deploy/archive.sh target/release/muster dist
#
# The same input gives the same bytes: times are those of SOURCE_DATE_EPOCH, or of the last commit.
set -eu

die() { echo "archive.sh: $*" >&2; exit 1; }

[ $# -eq 2 ] || die "usage: archive.sh BINARY FOLDER"
binary=$1 out=$2
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
repo=$(dirname -- "$here")
[ -x "$binary" ] || die "$binary is no program"
version=$("$binary" --version | cut -d' ' -f2)
name=muster-$version-linux-$(uname -m)
time=${SOURCE_DATE_EPOCH:-$(git -C "$repo" log -1 --format=%ct)}

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
tree=$work/$name
mkdir -p "$tree/systemd/user" "$tree/systemd/examples" "$tree/etc" "$out"
install -m 755 "$binary" "$tree/muster"
install -m 755 "$here/install.sh" "$tree/install.sh"
install -m 644 "$here"/systemd/*.service "$here/systemd/muster.sysusers" "$tree/systemd/"
install -m 644 "$here"/systemd/user/*.service "$tree/systemd/user/"
install -m 644 "$here"/systemd/examples/*.conf "$tree/systemd/examples/"
install -m 644 "$here/etc/controller.toml" "$here/etc/worker.toml" "$here/etc/worker.env" "$tree/etc/"
install -m 644 "$repo/LICENSE-APACHE" "$repo/LICENSE-MIT" "$repo/README.md" "$repo/CHANGELOG.md" "$tree/"
tar -C "$work" --sort=name --mtime="@$time" --owner=0 --group=0 --numeric-owner --format=ustar -cf - "$name" |
    gzip -n >"$out/$name.tar.gz.new"
mv -f -- "$out/$name.tar.gz.new" "$out/$name.tar.gz"
(
    cd "$out"
    touch SHA256SUMS
    grep -v "  $name.tar.gz\$" SHA256SUMS >SHA256SUMS.new || :
    sha256sum "$name.tar.gz" >>SHA256SUMS.new
    mv -f SHA256SUMS.new SHA256SUMS
)
echo "$out/$name.tar.gz"
