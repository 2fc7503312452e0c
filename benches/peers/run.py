#!/usr/bin/env python3
"""Measures sluss beside nginx and HAProxy: CPU time of the proxy per operation, same work, same run.

    cargo build --release
    python3 benches/peers/run.py                    # all scenarios, 3 interleaved rounds
    python3 benches/peers/run.py --quick            # one scenario, one short round: tests this script
    python3 benches/peers/run.py --scenario h1 h2 --rounds 5 --seconds 4

One proxy at a time on CPU 0; load and origin on CPU 1. The figure to quote is CPU time (user + system,
all threads and children, from /proc) by operation, as median and spread over the rounds: it survives a
noisy machine, throughput does not. Needs nginx, haproxy, h2load, openssl and taskset. Loopback only;
everything started here is ended here, by its process id.
"""
import argparse, json, os, pathlib, re, shutil, signal, socket, ssl, statistics, subprocess, sys, tempfile, time

HOST = "bench.localhost"
TICK = os.sysconf("SC_CLK_TCK")
ROOT = pathlib.Path(__file__).resolve().parents[2]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def tree(pid):
    found = [pid]
    for child in subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split():
        found += tree(int(child))
    return found


def cpu_seconds(pid):
    total = 0
    for one in tree(pid):
        try:
            fields = open(f"/proc/{one}/stat").read().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        except OSError:
            pass
    return total / TICK


def resident_kib(pid):
    total = 0
    for one in tree(pid):
        text = open(f"/proc/{one}/status").read()
        total += int(re.search(r"VmRSS:\s+(\d+)", text).group(1))
    return total


def wait_for(port, patience=10):
    end = time.time() + patience
    while time.time() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.02)
    sys.exit(f"nothing listens on port {port}")


def certificate(folder, name, *key):
    subprocess.run(["openssl", "req", "-x509", "-newkey", *key, "-nodes", "-days", "30", "-subj", f"/CN={HOST}",
                    "-addext", f"subjectAltName=DNS:{HOST}", "-keyout", f"{folder}/{name}.key",
                    "-out", f"{folder}/{name}.crt"], check=True, stderr=subprocess.DEVNULL)
    both = open(f"{folder}/{name}.crt").read() + open(f"{folder}/{name}.key").read()
    open(f"{folder}/{name}.pem", "w").write(both)
    os.chmod(f"{folder}/{name}.pem", 0o600)


NGINX_HEAD = """daemon off; worker_processes 1; pid {d}/{n}.pid; error_log {d}/{n}.log crit;
events {{ worker_connections 20000; }}
http {{ access_log off; client_body_temp_path {d}/{n}-b; proxy_temp_path {d}/{n}-p; fastcgi_temp_path {d}/{n}-f;
  uwsgi_temp_path {d}/{n}-u; scgi_temp_path {d}/{n}-s; keepalive_requests 100000000; """


class Peers:
    """Configurations in plain sight; the same work for all of them."""

    def __init__(self, folder, key):
        self.d, self.key, self.origin = folder, key, free_port()

    def start_origin(self):
        os.makedirs(f"{self.d}/www", exist_ok=True)
        open(f"{self.d}/www/1k", "wb").write(b"x" * 1024)
        open(f"{self.d}/www/10m", "wb").write(b"x" * (10 << 20))
        conf = NGINX_HEAD.format(d=self.d, n="origin") + f"""
  sendfile on; tcp_nodelay on; open_file_cache max=100; client_max_body_size 0;
  server {{ listen 127.0.0.1:{self.origin} backlog=4096 reuseport; root {self.d}/www; location = /post {{ return 204; }} }} }}"""
        return self.spawn("origin", conf, ["nginx", "-p", self.d, "-e", f"{self.d}/origin.log", "-c"], 1, self.origin)

    def spawn(self, name, conf, command, cpu, port):
        path = f"{self.d}/{name}.conf"
        open(path, "w").write(conf)
        log = open(f"{self.d}/{name}.out", "w")
        child = subprocess.Popen(["taskset", "-c", str(cpu), *command, path], stdout=log, stderr=log)
        try:
            wait_for(port)
        except SystemExit:
            child.kill()
            print(open(f"{self.d}/{name}.out").read()[-2000:], file=sys.stderr)
            raise
        return child

    def nginx(self):
        port = free_port()
        conf = NGINX_HEAD.format(d=self.d, n="nginx") + f"""
  ssl_certificate {self.d}/{self.key}.crt; ssl_certificate_key {self.d}/{self.key}.key; ssl_protocols TLSv1.3;
  ssl_session_tickets on; ssl_ecdh_curve X25519; proxy_buffering on; client_max_body_size 0;
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
  proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto https;
  upstream o {{ server 127.0.0.1:{self.origin}; keepalive 1024; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port} ssl http2 backlog=4096; server_name {HOST}; location / {{ proxy_pass http://o; }} }} }}"""
        return port, self.spawn("nginx", conf, ["nginx", "-p", self.d, "-e", f"{self.d}/nginx.log", "-c"], 0, port)

    def haproxy(self):
        port = free_port()
        conf = f"""global
  maxconn 8000
  nbthread 1
  tune.ssl.default-dh-param 2048
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-bind-curves X25519
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  http-reuse always
  option forwardfor
frontend f
  bind 127.0.0.1:{port} ssl crt {self.d}/{self.key}.pem alpn h2,http/1.1 backlog 4096
  default_backend o
backend o
  server s 127.0.0.1:{self.origin} pool-max-conn 2048
"""
        return port, self.spawn("haproxy", conf, ["haproxy", "-f"], 0, port)

    def sluss(self, listen="", queues="request_depth = 4096"):
        port = free_port()
        base = pathlib.Path(self.d) / "sluss"
        for sub in ("sites", f"certs/{HOST}"):
            (base / sub).mkdir(parents=True, exist_ok=True)
        shutil.copy(f"{self.d}/{self.key}.crt", base / f"certs/{HOST}/fullchain.pem")
        shutil.copy(f"{self.d}/{self.key}.key", base / f"certs/{HOST}/privkey.pem")
        (base / "sites/bench.toml").write_text(
            f'hosts = ["{HOST}"]\nupstreams = ["http://127.0.0.1:{self.origin}"]\nlimits = {{ in_flight = 2048 }}\n')
        conf = f"""[listen]
https = ["127.0.0.1:{port}"]
http = []
admin = "127.0.0.1:0"
{listen}
[runtime]
threads = 1
state = "{base}/state"
[certificates]
directory = "{base}/certs"
[sites]
directory = "{base}/sites"
[queues]
{queues}
[log]
access = "off"
"""
        return port, self.spawn("sluss", conf, [ARGS.sluss, "run", "-c"], 0, port)


def h2load(port, path, *args):
    command = ["taskset", "-c", "1", "h2load", *args, f"https://{HOST}:{port}{path}", f"--connect-to=127.0.0.1:{port}"]
    text = subprocess.run(command, capture_output=True, text=True, timeout=300).stdout
    done = re.search(r"requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded", text)
    failed = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", text)
    if not done or int(done.group(1)) == 0:
        raise RuntimeError(text[-400:])
    if any(int(n) for n in failed.groups()):
        print(f"    note: {failed.group(0)}")
    return int(done.group(1))


def requests(protocol):
    def run(port, seconds):
        shape = ["--h1", "-c", "64"] if protocol == "h1" else ["-c", "16", "-m", "32"]
        return h2load(port, "/1k", *shape, "-D", str(seconds), "--warm-up-time", "0")
    return run


def bodies(port, seconds):
    return 10 * h2load(port, "/10m", "--h1", "-c", "4", "-n", str(int(12 * seconds)))


def handshakes(resumed):
    kind = "resumed" if resumed else "handshakes"
    def run(port, seconds):
        command = ["taskset", "-c", "1", ARGS.sluss, "load", f"https://{HOST}:{port}/1k", "--connect", f"127.0.0.1:{port}",
                   "--insecure", "--json", "--duration", f"{seconds}s", "--traffic", f"kind={kind},rate=400,group=x25519"]
        report = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=120).stdout)
        return report["traffics"][0]["outcomes"]["completed"]
    return run


SCENARIOS = {
    "h1": ("HTTP/1.1 keep-alive, 64 connections, 1 KiB", "ecdsa", requests("h1"), "request"),
    "h2": ("HTTP/2, 16 connections x 32 streams, 1 KiB", "ecdsa", requests("h2"), "request"),
    "bodies": ("10 MiB bodies over HTTP/1.1, 4 connections", "ecdsa", bodies, "MiB"),
    "handshake-ecdsa": ("full handshake (P-256) with one request", "ecdsa", handshakes(False), "connection"),
    "handshake-rsa": ("full handshake (RSA-2048) with one request", "rsa", handshakes(False), "connection"),
    "resumed": ("resumed handshake with one request", "ecdsa", handshakes(True), "connection"),
}


def measure(peers, name, scenario, seconds):
    port, child = getattr(peers, name)()
    try:
        work = SCENARIOS[scenario][2]
        work(port, 1)
        before = cpu_seconds(child.pid)
        count = work(port, seconds)
        return (cpu_seconds(child.pid) - before) * 1e6 / count
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()


def idle(peers, name, connections=2000):
    """Resident memory of an idle keep-alive TLS connection after one request, KiB."""
    port, child = getattr(peers, name)()
    try:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        held = []

        def open_some(count):
            for _ in range(count):
                stream = context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname=HOST)
                stream.sendall(f"GET /1k HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
                got = b""
                while len(got) < 1024 or not got.endswith(b"x" * 1024):
                    got += stream.recv(65536)
                held.append(stream)

        open_some(50)
        before = resident_kib(child.pid)
        open_some(connections)
        after = resident_kib(child.pid)
        for stream in held:
            stream.close()
        return (after - before) / connections
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(60)


def main():
    names = [n for n in ("sluss", "nginx", "haproxy") if n == "sluss" or shutil.which(n)]
    folder = tempfile.mkdtemp(prefix="sluss-peers-")
    os.chmod(folder, 0o755)
    certificate(folder, "ecdsa", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    certificate(folder, "rsa", "rsa:2048")
    rounds, seconds = (1, 1) if ARGS.quick else (ARGS.rounds, ARGS.seconds)
    wanted = ["h1"] if ARGS.quick else (ARGS.scenario or [*SCENARIOS, "idle"])
    results = {}
    try:
        for scenario in wanted:
            peers = Peers(folder, "ecdsa" if scenario == "idle" else SCENARIOS[scenario][1])
            origin = peers.start_origin()
            try:
                rows = {name: [] for name in names}
                for _ in range(rounds):
                    for name in names:
                        figure = idle(peers, name) if scenario == "idle" else measure(peers, name, scenario, seconds)
                        rows[name].append(figure)
            finally:
                origin.send_signal(signal.SIGTERM)
                origin.wait(10)
            title = "idle TLS connection, KiB resident" if scenario == "idle" else \
                f"{SCENARIOS[scenario][0]}: CPU us per {SCENARIOS[scenario][3]}"
            print(f"\n{title}")
            best = min((statistics.median(r) for n, r in rows.items() if n != "sluss"), default=None)
            for name, row in rows.items():
                median = statistics.median(row)
                ratio = f"  {median / best:.2f} x the best peer" if best and name == "sluss" else ""
                print(f"  {name:8} {median:9.1f}   ({min(row):.1f} to {max(row):.1f}){ratio}", flush=True)
            results[scenario] = rows
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if ARGS.json:
        json.dump(results, open(ARGS.json, "w"), indent=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluss", default=str(ROOT / "target/release/sluss"))
    parser.add_argument("--scenario", nargs="*", choices=[*SCENARIOS, "idle"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    ARGS = parser.parse_args()
    main()
