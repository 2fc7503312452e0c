#!/usr/bin/env python3
"""Many certificates: sluss beside nginx and HAProxy, one after the other, in one run; then sluss against its goals.

    cargo build --release
    python3 benches/certs/run.py [--count 10000] [--sluss target/quick/sluss]
    python3 benches/certs/run.py --count 100000 --alone        # no peers
    python3 benches/certs/run.py --count 1000 --alone --quick  # tests this script

The certificates are made once and kept below target/; a hundredth of them are RSA. For each: the time from its start to
the first handshake, memory then, the time from a reload's signal to the first handshake with a renewed certificate (ten
are renewed each time; the median of five), and memory after five reloads. Memory is the proportional set size of all
processes: pages that a parent and its child share count once. Every certificate has a key of its own and an
intermediate. nginx has a server and sluss a site for each; HAProxy has the folder alone. Needs python3-cryptography, nginx and haproxy. Loopback only; everything
started here is ended here, by its process id.

The goals are printed as PASS or FAIL, and the exit status is 1 where one failed: start, reload of ten and of one in a
hundred, one broken certificate of each kind beside one in a hundred renewed (all of these change, it is kept and named,
`sluss reload` exits 3), memory a certificate beyond its DER before first use, and a
minute of a reload a second in six turns: p99 of handshakes beside that of the ten quiet seconds before (median of the ratios),
failures, memory (settled, after the reloads before against after the minute).
"""
import argparse, datetime, json, os, pathlib, re, shutil, signal, socket, statistics, subprocess, sys, time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "peers"))
import peers

RELOADS, RENEWED, PATIENCE = 5, 10, 600
PEM = serialization.Encoding.PEM
NAME = x509.oid.NameOID.COMMON_NAME
CLIENT, host = peers.CLIENT, peers.site


class Authority:
    """Writes each certificate as sluss and nginx read it, and as HAProxy does."""

    def __init__(self, folder, for_haproxy=True):
        self.folder, self.for_haproxy, self.key = pathlib.Path(folder), for_haproxy, ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NAME, "Benchmark intermediate")])
        self.pem = self.sign(self.name, self.key, ca=True).public_bytes(PEM)

    def sign(self, subject, key, ca=False, hosts=(), days=90):
        now = datetime.datetime.now(datetime.timezone.utc)
        made = (x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
                .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(9))
                .not_valid_after(now + datetime.timedelta(days))
                .add_extension(x509.BasicConstraints(ca, None), critical=True))
        if hosts:
            made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in hosts]), critical=False)
        return made.sign(self.key, hashes.SHA256())

    def issue(self, number, days=90):
        name = host(number)
        if number % 100 == 50:
            key = rsa.generate_private_key(65537, 2048)
        else:
            key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NAME, name)])
        chain = self.sign(subject, key, hosts=(name, f"www.{name}"), days=days).public_bytes(PEM) + self.pem
        secret = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        for path, content in ((f"certs/{name}/fullchain.pem", chain), (f"certs/{name}/privkey.pem", secret),
                              (f"haproxy/{name}.pem", chain + secret)):
            path = self.folder / path
            if path.parent.name == "haproxy" and not self.for_haproxy:
                continue
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
    shutil.rmtree(sites, ignore_errors=True)
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
    return conf, [*bound_by_modes(), ARGS.sluss, "run", "-c"], signal.SIGHUP


def bound_by_modes():
    """Root may read what nobody may: what stands before a command to bind it by files' modes, as other users
    are; nothing where there is no way."""
    if os.geteuid() != 0:
        return []
    without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    return without if shutil.which("setpriv") and subprocess.run([*without, "true"]).returncode == 0 else []


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


def started(name, prepare, folder):
    port = peers.free_port()
    conf, command, reload = prepare(folder, port)
    path, log = f"{folder}/{name}.conf", f"{folder}/{name}.out"
    open(path, "w").write(conf)
    out = open(log, "w")
    return port, subprocess.Popen([*command, path], stdout=out, stderr=out, start_new_session=True), reload, log


def measure(name, prepare, folder, authority):
    port, child, reload, log = started(name, prepare, folder)
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
            until = time.time() + 30
            while len(peers.tree(child.pid)) > processes and time.time() < until:
                time.sleep(0.05)  # The workers of before are about to end.
        last = memory_mib(child.pid)
        if name == "sluss":
            goals(folder, authority, port, child, (start, first, took))
        return start, first, statistics.median(took), last
    finally:
        peers.stop(child)


def goal(text, met):
    GOALS.append(met)
    LINES.append(f"{'PASS' if met else 'FAIL'}  {text}")
    print(LINES[-1], file=sys.stderr, flush=True)


def der_bytes(folder):
    """Of a certificate with its intermediate; the mean of a hundred."""
    files = [pathlib.Path(f"{folder}/certs/{host(n)}/fullchain.pem") for n in range(min(100, ARGS.count))]
    return statistics.mean(sum(len(one.public_bytes(serialization.Encoding.DER)) for one in x509.load_pem_x509_certificates(file.read_bytes()))
                           for file in files)


def goals(folder, authority, port, child, measured):
    start, first, took = measured
    goal(f"start to the first handshake {start:.2f} s (5 s at most)", start <= 5)
    der = der_bytes(folder)
    beyond = first * 2**20 / ARGS.count - der
    goal(f"memory at the start, the process and the sites included: {beyond:,.0f} bytes a certificate beyond its DER of {der:,.0f} "
         "(6,144 at most)", beyond <= 6144)
    ten = statistics.median(took)
    goal(f"reload, {RENEWED} changed: {ten:.2f} s (0.5 s at most)", ten <= 0.5)
    several = max(ARGS.count // 100, 1)
    for number in range(several):
        authority.issue(number)
    seen, began = handshake(port, host(several - 1)), time.time()
    child.send_signal(signal.SIGHUP)
    while (now := handshake(port, host(several - 1))) in (None, seen) or handshake(port, host(0)) is None:
        if time.time() > began + PATIENCE:
            sys.exit("the reload of one in a hundred did not come through")
        time.sleep(0.002)
    one_percent = time.time() - began
    goal(f"reload, {several} changed: {one_percent:.2f} s (1.5 s at most)", one_percent <= 1.5)
    for kind, how in BROKEN.items():
        broken(folder, authority, port, kind, how)
    a_minute(folder, authority, port, child)


def half(path):
    path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2])


def to_itself(path):
    shutil.rmtree(path.parent)
    path.parent.symlink_to(path.parent.name)


BROKEN = {
    "cut PEM": lambda chain, authority: half(chain),
    "key of another": lambda chain, authority: shutil.copy(chain.parent.parent / host(1) / "privkey.pem", chain.parent),
    "expired": lambda chain, authority: authority.issue(0, days=-2),
    "empty file": lambda chain, authority: chain.write_bytes(b""),
    "unreadable": lambda chain, authority: chain.chmod(0),
    "directory loop": lambda chain, authority: to_itself(chain),
    "10 MB of garbage": lambda chain, authority: chain.write_bytes(os.urandom(10 << 20)),
}


def broken(folder, authority, port, kind, how):
    """Breaks the first certificate, renews the next ten, and looks at what `sluss reload` makes of it."""
    if kind == "unreadable" and os.geteuid() == 0 and not bound_by_modes():
        print("skipped: nothing is unreadable to root, and there is no setpriv that binds it", file=sys.stderr)
        return
    chain = pathlib.Path(folder) / "certs" / host(0) / "fullchain.pem"
    old, others = handshake(port, host(0)), [handshake(port, host(n)) for n in range(1, RENEWED + 1)]
    several = max(ARGS.count // 100, RENEWED)
    for number in range(1, several + 1):
        authority.issue(number)
    how(chain, authority)
    done = reload(folder, "--json")
    report = json.loads(done.stdout)
    changed, named = len(report["changes"]["certificates"]["changed"]), report["kept"] == [f"certificate {host(0)}"]
    served = all(handshake(port, host(n)) not in (None, before) for n, before in enumerate(others, 1))
    kept = handshake(port, host(0)) == old
    goal(f"one broken ({kind}): exit {done.returncode}, it alone named {named}, kept {kept}; of {several} others {changed} renewed, served {served}",
         done.returncode == 3 and named and kept and served and changed == several)
    if chain.parent.is_symlink():
        chain.parent.unlink()
    else:
        shutil.rmtree(chain.parent)
    authority.issue(0)
    if (done := reload(folder)).returncode != 0:
        sys.exit(f"mended, and yet: {done.stderr[-2000:]}")


def reload(folder, *how):
    return subprocess.run([ARGS.sluss, "reload", *how, "-c", f"{folder}/sluss.conf"], capture_output=True, text=True, timeout=PATIENCE)


def handshakes(folder, port, seconds):
    """The handshakes of so many seconds, 200 a second of 50 hosts: as `sluss load` reports them."""
    hosts = f"{folder}/hosts"
    open(hosts, "w").write("".join(f"{host(n)}\n" for n in range(ARGS.count // 2, ARGS.count // 2 + 50)))
    return subprocess.Popen(
        [ARGS.sluss, "load", f"https://{host(0)}:{port}/", "--connect", f"127.0.0.1:{port}", "--insecure", "--json", "--hosts", hosts,
         "--i-own-this-host", host(0), "--duration", f"{seconds}s", "--traffic", "kind=handshakes,rate=200,timeout=10s"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def judged(loading):
    out, told = loading.communicate(timeout=PATIENCE)
    try:
        lane = json.loads(out)["traffics"][0]
    except (ValueError, KeyError):
        sys.exit(f"sluss load failed: {told[-2000:]}")
    lost = sum(count for outcome, count in lane["outcomes"].items() if outcome != "completed")
    return lane["spans"]["total"]["p99"], lost


def settled_mib(pid):
    """The least of some seconds: what a reload let go of is given back within two."""
    least = memory_mib(pid)
    for _ in range(20):
        time.sleep(0.2)
        least = min(least, memory_mib(pid))
    return least


def a_minute(folder, authority, port, child):
    """Turns of ten seconds without and with a reload a second; on a machine whose cores come and go, turns tell more than halves."""
    turns, seconds = (2, 3) if ARGS.quick else (6, 10)
    judged(handshakes(folder, port, 2))  # Keys are made ready at first use.
    memory, failed, ratios, quiet, busy, during = settled_mib(child.pid), 0, [], [], [], []
    for _ in range(turns):
        quiet.append(judged(handshakes(folder, port, seconds))[0])
        with peers.kept_busy():
            busy.append(judged(handshakes(folder, port, seconds))[0])
        loading, began = handshakes(folder, port, seconds), time.time()
        for second in range(seconds):
            for number in range(RENEWED):
                authority.issue(number)
            time.sleep(max(0, began + second - time.time()))
            child.send_signal(signal.SIGHUP)
        p99, lost = judged(loading)
        during.append(p99)
        failed += lost
        ratios.append(p99 / quiet[-1])
    last = settled_mib(child.pid)
    ratio, growth, told = statistics.median(ratios), last / memory - 1, statistics.median
    reloads = f"{turns * seconds} reloads, one a second"
    goal(f"{reloads}: p99 of handshakes {told(during):.1f} ms, {told(quiet):.1f} ms without, ratio in the same turn {ratio:.2f} "
         f"({min(ratios):.2f} to {max(ratios):.2f}; 1.2 at most); without on cores kept busy by what gives way {told(busy):.1f} ms", ratio <= 1.2)
    goal(f"{reloads}: {failed} handshakes failed", failed == 0)
    goal(f"{reloads}: memory {memory:.0f} MiB before, {last:.0f} MiB after, {growth:+.1%} (5 % at most)", growth <= 0.05)


def made(folder):
    """The authority of this run; the certificates where they are not there from an earlier one."""
    authority, began = Authority(folder, for_haproxy=not ARGS.alone), time.time()
    done = pathlib.Path(folder) / "made"
    if done.exists() and done.read_text() == str(ARGS.alone):
        # What an interrupted run left broken.
        for number in [*range(RENEWED + 1), *range(ARGS.count - RENEWED, ARGS.count)]:
            link = pathlib.Path(folder) / "certs" / host(number)
            if link.is_symlink():
                link.unlink()
            authority.issue(number)
        return authority
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    for number in range(ARGS.count):
        authority.issue(number)
    done.write_text(str(ARGS.alone))
    print(f"{ARGS.count} certificates made in {time.time() - began:.0f} s", flush=True)
    return authority


def main():
    folder = str(pathlib.Path(ARGS.cache).resolve() / f"{ARGS.count}{'-alone' if ARGS.alone else ''}")
    authority = made(folder)
    print(f"load {os.getloadavg()[0]:.1f}; {peers.stalls()}", flush=True)
    print("\n| | start to the first handshake | memory | reload, 10 changed | memory after five reloads |\n|---|---|---|---|---|")
    for name, prepare in (("sluss", sluss), *(() if ARGS.alone else (("nginx", nginx), ("haproxy", haproxy)))):
        if prepare is not sluss and not shutil.which(name):
            print(f"| {name} | not installed | | | |")
            continue
        start, first, took, last = measure(name, prepare, folder, authority)
        print(f"| {name} | {start:.2f} s | {first:.0f} MiB | {took:.2f} s | {last:.0f} MiB |", flush=True)
    print(f"\nload at the end {os.getloadavg()[0]:.1f}\n")
    print("\n".join(LINES))
    sys.exit(0 if all(GOALS) else 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluss", default=str(HERE.parents[1] / "target/release/sluss"))
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--alone", action="store_true", help="without nginx and HAProxy")
    parser.add_argument("--quick", action="store_true", help="two short turns for the minute")
    parser.add_argument("--cache", default=str(HERE.parents[1] / "target/certs"), help="where the certificates are kept")
    ARGS = parser.parse_args()
    ARGS.sluss = str(pathlib.Path(ARGS.sluss).resolve())
    GOALS, LINES = [], []
    main()
