#!/usr/bin/env python3
"""Builds sluss with a profile (PGO): the compiler sees what the edge really does, and lays out and inlines for that.

    rustup component add llvm-tools
    python3 benches/pgo.py                      # 15 to 20 minutes; target/pgo/release/sluss

Three steps: a release build that counts (`-Cprofile-generate`), the scenarios of benches/peers as training, and a release build
with what was counted (`-Cprofile-use`). The program does the same as that of `cargo build --release`; docs/performance.md has
both side by side. A profile is good for the compiler and the sources that it was made with: make it anew for another version.

Needs what benches/peers/run.py needs: nginx (as the origin), h2load, openssl and taskset. Loopback only.
"""
import argparse, os, pathlib, shutil, subprocess, sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDER = ROOT / "target/pgo"
TRAINING = ("h1", "h2", "handshake-ecdsa", "handshake-rsa", "resumed", "bodies", "uploads")


def profdata():
    """LLVM's tool of this very compiler: another version's may not read its profiles."""
    library = subprocess.run(["rustc", "--print", "target-libdir"], capture_output=True, text=True, check=True).stdout.strip()
    tool = pathlib.Path(library).parent / "bin/llvm-profdata"
    if not tool.exists():
        sys.exit(f"{tool.name} is missing: rustup component add llvm-tools")
    return tool


def build(folder, flag):
    # Build scripts and macros count as well; what they have counted is wiped before the training.
    env = {**os.environ, "CARGO_TARGET_DIR": str(folder), "RUSTFLAGS": f"{os.environ.get('RUSTFLAGS', '')} {flag}".strip()}
    subprocess.run(["cargo", "build", "--release", "--locked"], cwd=ROOT, env=env, check=True)


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    tool, counted, counting = profdata(), FOLDER / "counted", FOLDER / "counting"
    build(counting, f"-Cprofile-generate={counted}")
    shutil.rmtree(counted, ignore_errors=True)
    subprocess.run([sys.executable, str(ROOT / "benches/peers/run.py"), "--sluss", str(counting / "release/sluss"), "--only", "sluss",
                    "--scenario", *TRAINING, "--rounds", "1", "--seconds", "3", "--json", str(FOLDER / "training.json")], check=True)
    subprocess.run([tool, "merge", "-o", str(FOLDER / "sluss.profdata"), str(counted)], check=True)
    # What the profile calls hot lies together, in few pages.
    build(FOLDER, f"-Cprofile-use={FOLDER / 'sluss.profdata'} -Clink-arg=-Wl,-z,keep-text-section-prefix")
    print(f"built {FOLDER / 'release/sluss'}")


if __name__ == "__main__":
    main()
