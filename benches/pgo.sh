#!/usr/bin/env bash
# Builds sluss with what a run of the peers' load has told the compiler (profile-guided optimisation).
#
#     rustup component add llvm-tools
#     benches/pgo.sh                      # some ten minutes on 2 cores; makes target/pgo/release/sluss
#
# Two release builds, the first of which counts what is called while it serves; needs what benches/peers needs.
set -euo pipefail
cd "$(dirname "$0")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
profdata="$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata"
if [ ! -x "$profdata" ]; then
  echo "$profdata is missing: rustup component add llvm-tools" >&2
  exit 1
fi

out=$PWD/target/pgo
rm -rf "$out/counts"
mkdir -p "$out/counts"
# Each with a folder of its own: other flags would build everything anew each time. --target keeps the flags from
# build scripts.
RUSTFLAGS="-Cprofile-generate=$out/counts" cargo build --release --locked --target "$host" --target-dir "$out/counting"
python3 benches/peers/run.py --sluss "$out/counting/$host/release/sluss" --only sluss --rounds 1 --seconds 3 \
  --scenario h1 h2 handshake-ecdsa handshake-rsa resumed bodies uploads --json "$out/training.json"
"$profdata" merge -o "$out/merged.profdata" "$out"/counts/*.profraw
RUSTFLAGS="-Cprofile-use=$out/merged.profdata" cargo build --release --locked --target "$host" --target-dir "$out/using"
mkdir -p "$out/release"
cp "$out/using/$host/release/sluss" "$out/release/sluss"
echo "$out/release/sluss"
