#!/usr/bin/env python3
"""Many certificates: sluss beside nginx and HAProxy, one after the other, in one run.

    cargo build --release
    python3 benches/certs/run.py [--count 10000] [--sluss target/quick/sluss]

For each: the time from its start to the first handshake, memory then, the time from a reload's signal to the
first handshake with a renewed certificate (ten are renewed each time; the median of five), and memory after five
reloads. Memory is the proportional set size of all processes: pages that a parent and its child share count once.
Every certificate is ECDSA P-256 with a key of its own and an intermediate. nginx has a server and sluss a site for
each; HAProxy has the folder alone. Needs python3-cryptography, nginx and haproxy. Loopback only; everything
started here is ended here, by its process id.
"""
import argparse, datetime, os, pathlib, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "peers"))
import peers

RELOADS, RENEWED, PATIENCE = 5, 10, 600
PEM = serialization.Encoding.PEM
NAME = x509.oid.NameOID.COMMON_NAME
CLIENT, host = peers.CLIENT, peers.site


class Authority:
    """Writes each certificate as sluss and nginx read it, and as HAProxy does."""

    def __init__(self, folder):
        self.folder, self.key = pathlib.Path(folder), ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NAME, "Benchmark intermediate")])
        self.pem = self.sign(self.name, self.key, ca=True).public_bytes(PEM)

    def sign(self, subject, key, ca=False, hosts=()):
        now = datetime.datetime.now(datetime.timezone.utc)
        made = (x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
                .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(1))
                .not_valid_after(now + datetime.timedelta(90))
                .add_extension(x509.BasicConstraints(ca, None), critical=True))
        if hosts:
            made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in hosts]), critical=False)
        return made.sign(self.key, hashes.SHA256())

    def issue(self, number):
        key, name = ec.generate_private_key(ec.SECP256R1()), host(number)
        subject = x509.Name([x509.NameAttribute(NAME, name)])
        chain = self.sign(subject, key, hosts=(name, f"www.{name}")).public_bytes(PEM) + self.pem
        secret = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        for path, content in ((f"certs/{name}/fullchain.pem", chain), (f"certs/{name}/privkey.pem", secret),
                              (f"haproxy/{name}.pem", chain + secret)):
            path = self.folder / path
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}")
            part.touch(0o600)
            part.write_bytes(content)
            part.rename(path)


def nginx(folder, port):
    servers = "\n".join(
        f"  server {{ listen 127.0.0.1:{port} ssl; server_name {host(n)} www.{host(n)}; "
        f"ssl_certificate {folder}/certs/{host(n)}/fullchain.pem; "
        f"ssl_certificate_key {folder}/certs/{host(n)}/privkey.pem; return 200; }}" for n in range(ARGS.count))
    head = peers.NGINX_HEAD.format(d=folder, n="nginx")
    conf = f"{head}\n  server_names_hash_max_size {ARGS.count * 8}; server_names_hash_bucket_size 128;\n{servers} }}"
    return conf, ["nginx", "-p", folder, "-e", f"{folder}/nginx.log", "-c"], signal.SIGHUP


def haproxy(folder, port):
    conf = f"""global
  maxconn 8000
defaults
  mode http
  timeout connect 2s
  timeout client 5s
  timeout server 5s
frontend f
  bind 127.0.0.1:{port} ssl crt {folder}/haproxy
  http-request return status 200
"""
    return conf, ["haproxy", "-W", "-f"], signal.SIGUSR2


def sluss(folder, port):
    sites = pathlib.Path(folder) / "sites"
    sites.mkdir()
    for n in range(ARGS.count):
        (sites / f"{host(n)}.toml").write_text(
            f'hosts = ["{host(n)}", "www.{host(n)}"]\nupstreams = ["http://127.0.0.1:9"]\n')
    conf = f"""[listen]
https = ["127.0.0.1:{port}"]
http = []
admin = "127.0.0.1:0"
[runtime]
state = "{folder}/state"
[certificates]
directory = "{folder}/certs"
[sites]
directory = "{sites}"
[log]
access = "off"
"""
    return conf, [ARGS.sluss, "run", "-c"], signal.SIGHUP


def handshake(port, name):
    """The certificate that a client of that name gets; None where there is no handshake yet."""
    try:
        with socket.create_connection(("127.0.0.1", port), 0.5) as tcp, CLIENT.wrap_socket(tcp, server_hostname=name) as tls:
            return tls.getpeercert(binary_form=True)
    except OSError:
        return None


def wait_for_other(port, old, child, log):
    """Seconds until the last host's certificate is another than `old`, which is returned too."""
    began = time.time()
    while time.time() < began + PATIENCE:
        seen = handshake(port, host(ARGS.count - 1))
        if seen not in (None, old):
            return time.time() - began, seen
        if child.poll() is not None:
            sys.exit(f"it ended: {open(log).read()[-2000:]}")
        time.sleep(0.002)
    sys.exit(f"nothing within {PATIENCE} s")


def memory_mib(pid):
    total = 0
    for one in peers.tree(pid):
        try:
            total += int(re.search(r"^Pss:\s+(\d+)", open(f"/proc/{one}/smaps_rollup").read(), re.M).group(1))
        except OSError:
            pass  # It has just ended.
    return total / 1024


def measure(name, prepare, folder, authority):
    port = peers.free_port()
    conf, command, reload = prepare(folder, port)
    path, log = f"{folder}/{name}.conf", f"{folder}/{name}.out"
    open(path, "w").write(conf)
    out = open(log, "w")
    child = subprocess.Popen([*command, path], stdout=out, stderr=out)
    try:
        start, seen = wait_for_other(port, None, child, log)
        processes, first = len(peers.tree(child.pid)), memory_mib(child.pid)
        took = []
        for _ in range(RELOADS):
            for number in range(ARGS.count - RENEWED, ARGS.count):
                authority.issue(number)
            child.send_signal(reload)
            seconds, seen = wait_for_other(port, seen, child, log)
            took.append(seconds)
            end = time.time() + 30
            while len(peers.tree(child.pid)) > processes and time.time() < end:
                time.sleep(0.05)  # The workers of before are about to end.
        return start, first, statistics.median(took), memory_mib(child.pid)
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def main():
    folder = tempfile.mkdtemp(prefix="sluss-certs-peers-")
    os.chmod(folder, 0o755)
    try:
        authority = Authority(folder)
        began = time.time()
        for number in range(ARGS.count):
            authority.issue(number)
        print(f"{ARGS.count} certificates made in {time.time() - began:.0f} s; load {os.getloadavg()[0]:.1f}", flush=True)
        print("\n| | start to the first handshake | memory | reload, 10 changed | memory after five reloads |\n|---|---|---|---|---|")
        for name, prepare in (("sluss", sluss), ("nginx", nginx), ("haproxy", haproxy)):
            if prepare is not sluss and not shutil.which(name):
                print(f"| {name} | not installed | | | |")
                continue
            start, first, took, last = measure(name, prepare, folder, authority)
            print(f"| {name} | {start:.2f} s | {first:.0f} MiB | {took:.2f} s | {last:.0f} MiB |", flush=True)
        print(f"\nload at the end {os.getloadavg()[0]:.1f}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluss", default=str(HERE.parents[1] / "target/release/sluss"))
    parser.add_argument("--count", type=int, default=10000)
    ARGS = parser.parse_args()
    main()
