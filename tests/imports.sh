#!/usr/bin/env bash
# Imports point one way: kernels <- engine, proto <- {engine, router, launcher}, the client <- {bench,
# launcher}; main.rs ties them.
set -euo pipefail
cd "$(dirname "$0")/.."
failed=0

# forbid PATTERN WHY PATHS...: no source line of PATHS may match PATTERN.
forbid() {
    local pattern=$1 why=$2
    shift 2
    if grep -rnE --include='*.rs' --include=Cargo.toml "$pattern" "$@"; then
        echo "forbidden: $why" >&2
        failed=1
    fi
}

forbid '\bsconce(::|-router|-launcher|_router|_launcher)|^sconce(\.workspace| =)' \
    'kernels and proto import no other part' kernels proto
forbid '\bsconce::|\bsconce(-|_)(kernels|launcher)|^sconce(\.workspace| =)' \
    'the router imports neither engine nor launcher' router/src router/Cargo.toml
forbid '\bsconce::|\bsconce(-|_)(kernels|router)|^sconce(\.workspace| =)' \
    'the launcher imports neither engine nor router' launcher/src launcher/Cargo.toml
forbid '\bsconce::|\bsconce(-|_)(kernels|proto|router|launcher)|^sconce(\.workspace| =)' \
    'clients know servers by their API only' clients/rust clients/bench
forbid '\b(tokio|candle_core|sconce_kernels|std::thread|std::time::(Instant|SystemTime))\b' \
    'src/engine is pure data: no tensors, no threads, no clock' src/engine.rs src/engine
forbid '\b(tokio|HashMap|HashSet|std::thread|std::process|std::fs|std::time::(Instant|SystemTime))\b' \
    'launcher/src/fleet is pure data: no threads, no processes, no clock' \
    launcher/src/fleet.rs launcher/src/fleet
forbid '\bsconce_(router|launcher)\b' 'only main.rs ties the parts' \
    $(find src -name '*.rs' ! -path src/main.rs ! -path 'src/main/*')
forbid '\b(mpsc|VecDeque|tokio)\b' 'the runner and the models never see a queue' \
    src/runner.rs src/runner src/models.rs src/models
forbid '^\s*unsafe (fn|impl|\{)|= unsafe \{|allow\(unsafe_code\)|expect\(unsafe_code' \
    'unsafe is only in kernels' src router launcher proto/src clients/rust clients/bench
forbid 'cfg\((not\()?feature' 'features are seen only in kernels and where a device is picked' \
    router launcher proto clients/rust clients/bench src/engine.rs src/engine
exit $failed
