#!/bin/sh
# Installs the system programs that some tests run for real: an emulator, an ssh server and client, a browser,
# compilers, Node.
# Quiet when they are there. Without apt or the right to install, it says what is missing and lets `make test` go on:
# the tests that need it are then skipped by name (in CI, where $CI is set, they fail).
set -eu

PATH="$PATH:/usr/sbin:/sbin"

# program:Debian package; others can be named as arguments
wanted="${*:-qemu-aarch64:qemu-user sshd:openssh-server ssh:openssh-client chromium:chromium \
    g++:g++ cmake:cmake make:make aarch64-linux-gnu-g++:g++-aarch64-linux-gnu node:nodejs npm:npm}"

missing=""
packages=""
for pair in $wanted; do
    program=${pair%%:*}
    command -v "$program" >/dev/null 2>&1 && continue
    # Ubuntu and Google name the browser differently.
    if [ "$program" = chromium ] && { command -v google-chrome || command -v chromium-browser; } >/dev/null 2>&1; then
        continue
    fi
    missing="$missing $program"
    packages="$packages ${pair#*:}"
done
[ -n "$missing" ] || exit 0

cannot() {
    echo "install-test-tools: missing:$missing; $1. Tests that need them are skipped." >&2
    echo "install-test-tools: by hand: apt-get install --no-install-recommends$packages" >&2
    [ -z "${CI:-}" ] || exit 1
    exit 0
}

command -v apt-get >/dev/null 2>&1 || cannot "there is no apt-get here"
if [ "$(id -u)" -eq 0 ]; then
    as_root=""
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo"
else
    cannot "installing needs root, or sudo without a password"
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "install-test-tools: installing$packages" >&2
# A server that starts by itself is not wanted: policy-rc.d is asked by every Debian package, and 101 means no.
policy=/usr/sbin/policy-rc.d
own_policy=""
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null && $as_root chmod 755 "$policy" && own_policy=yes
fi
# One package at a time: a browser that a mirror lacks must not cost the emulator.
failed=""
$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update >"$log" 2>&1 || failed=" (update)"
for package in $packages; do
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$package" \
        >>"$log" 2>&1 || failed="$failed $package"
done
[ -z "$own_policy" ] || $as_root rm -f "$policy"
if [ -n "$failed" ]; then
    grep '^E:' "$log" >&2 || tail -n 5 "$log" >&2
    cannot "apt-get failed for$failed"
fi
