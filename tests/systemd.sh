#!/usr/bin/env bash
# Runs the systemd unit under a systemd of its own, in namespaces, on an overlay of this machine's files:
# installed as its first lines say, started, its launcher killed under load, restarted, stopped.
# Needs root, systemd and unshare; says that it was skipped otherwise. SCONCE_BIN is the binary.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$(realpath "${SCONCE_BIN:-target/debug/sconce}")
python=${SCONCE_TEST_PYTHON:-target/venv/bin/python}
systemd=/usr/lib/systemd/systemd
port=18123
unit=sconce@tiny:prod

skip() { echo "NOTICE: $*; the test of the systemd unit is SKIPPED."; exit 0; }
[ "$(id -u)" = 0 ] || skip "not root"
[ -x $systemd ] && command -v unshare nsenter runuser >/dev/null || skip "no systemd, or no namespaces"
[ -x "$python" ] || skip "no Python with the tests' packages"
unshare --mount --pid --fork --cgroup true 2>/dev/null || skip "no namespaces"

work=$(mktemp -d)
pid=
end() {
    # The first process of its namespace, and all others with it.
    [ -z "$pid" ] || { kill -KILL "$(pgrep -P "$pid")" && wait "$pid"; } 2>/dev/null || true
    rm -rf "$work"
}
trap end EXIT

"$python" tests/tiny_model.py "$work/tiny"
: > "$work/console"
cat > "$work/test.target" <<'UNIT'
[Unit]
Wants=systemd-journald.service dbus.service
UNIT
cat > "$work/boot" <<'BOOT'
set -e
mount --make-rprivate /
mkdir "$work/files"
mount -t tmpfs tmpfs "$work/files"
mkdir "$work/files/upper" "$work/files/work" "$work/files/root"
root=$work/files/root upper=$work/files/upper
mkdir -p "$upper/usr/local/bin" "$upper/etc/systemd/system" "$upper/opt"
cp "$binary" "$upper/usr/local/bin/sconce"
cp deploy/systemd/sconce@.service "$work/test.target" "$upper/etc/systemd/system/"
cp -r "$work/tiny" "$upper/opt/tiny"
chmod -R a+rX "$upper/opt/tiny"
echo 0123456789abcdef0123456789abcdef > "$upper/etc/machine-id"
mount -t overlay overlay -o "lowerdir=/,upperdir=$upper,workdir=$work/files/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for directory in run tmp dev; do mount -t tmpfs tmpfs "$root/$directory"; done
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/dev/shm" "$root/dev/pts"
touch "$root/dev/console"
mount --bind "$work/console" "$root/dev/console"
container=other exec chroot "$root" $systemd --system --unit=test.target --log-target=console --show-status=no
BOOT
work=$work binary=$binary systemd=$systemd unshare --mount --pid --fork --cgroup --ipc --uts \
    bash "$work/boot" > "$work/boot.log" 2>&1 &
pid=$!

inside() {
    nsenter --target "$(pgrep -P $pid)" --mount --pid --cgroup --ipc --uts chroot "$work/files/root" "$@"
}
as_user() { inside runuser -u sconce -- env SCONCE_HOME=/var/lib/sconce HF_HOME=/var/lib/sconce/huggingface "$@"; }
# Until it holds, at most two minutes.
until_it() {
    for _ in $(seq 600); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.2
    done
    echo "never: $*" >&2
    cat "$work/boot.log" "$work/console" >&2
    inside journalctl --no-pager -n 40 -u "$unit" >&2 || true
    exit 1
}
is() { # PROPERTY VALUE [UNIT]
    [ "$(inside systemctl show --property "$1" --value "${3:-$unit}")" = "$2" ]
}
ask() {
    curl --silent --fail --max-time 60 "http://127.0.0.1:$port/v1/completions" \
        -H "authorization: Bearer $key" -H 'content-type: application/json' \
        -d '{"model": "tiny:prod", "prompt": "a", "max_tokens": 4}' >/dev/null
}
num_processes() { inside pgrep -c -u sconce || true; }

until_it inside systemctl is-active test.target
echo "systemd $($systemd --version | head -n 1 | cut -d ' ' -f 2) runs"

inside useradd --system --home-dir /var/lib/sconce --shell /usr/sbin/nologin sconce
inside install --directory --owner sconce --group sconce --mode 700 /var/lib/sconce
as_user sconce import /opt/tiny --name tiny >/dev/null
as_user sconce alias set tiny:prod tiny@1 >/dev/null
key=$(as_user sconce keys create --name test | grep -o 'sk-sconce-[A-Za-z0-9_-]*' | head -n 1)
inside mkdir -p /etc/sconce
inside tee "/etc/sconce/tiny:prod.env" <<< "SCONCE_PORT=$port" >/dev/null
inside systemd-analyze verify "/etc/systemd/system/sconce@.service"

inside systemctl start "$unit"
until_it ask
echo "it serves"

( num=0; while [ ! -e "$work/enough" ]; do ask || echo "request $num failed"; num=$((num + 1)); done
  echo "$num requests" ) > "$work/load" 2>&1 &
load=$!
before=$(inside systemctl show --property MainPID --value "$unit")
inside systemctl kill --signal KILL --kill-whom main "$unit"
until_it is NRestarts 1
until_it is ActiveState active
sleep 2
touch "$work/enough"
wait $load
! grep failed "$work/load"
[ "$(inside systemctl show --property MainPID --value "$unit")" != "$before" ]
[ "$(num_processes)" = 3 ]
echo "its launcher was killed and came back: $(cat "$work/load"), none failed"

inside systemctl restart "$unit"
until_it ask
inside systemctl stop "$unit"
is Result success
is ExecMainStatus 0
[ "$(num_processes)" = 0 ]
echo "it was restarted and stopped, and nothing is left"

inside systemctl start sconce@nothing
until_it is ActiveState failed sconce@nothing
is NRestarts 0 sconce@nothing
echo "a model that is not there is not tried again"
