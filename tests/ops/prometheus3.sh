#!/usr/bin/env bash
# Unpacks Prometheus 3 and its promtool, which Debian's testing has, into a folder: Debian 12's are 2.42. Nothing is
# installed. apt takes them from the mirror that the machine has for Debian, by Debian's signatures. Where there is none it
# says so, and what would run with them is left out.
set -euo pipefail
into=$1
[ ! -x "$into/usr/bin/prometheus" ] || exit 0
for needed in apt-get dpkg-deb; do
    command -v "$needed" > /dev/null || { echo "there is no $needed here: Prometheus 3 is left out" >&2; exit 0; }
done
mirror=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' | awk '$1 == "Debian" { print $2; exit }')
[ -n "$mirror" ] || { echo "apt knows no mirror of Debian here: Prometheus 3 is left out" >&2; exit 0; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror testing main" > "$work/sources.list"
apt=(apt-get -qq -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=)
"${apt[@]}" update
(cd "$work" && "${apt[@]}" download prometheus promtool)
for package in "$work"/*.deb; do dpkg-deb --extract "$package" "$work/unpacked"; done
"$work/unpacked/usr/bin/prometheus" --version | head -1
mkdir -p "$into"
cp -r "$work/unpacked/." "$into"
