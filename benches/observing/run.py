#!/usr/bin/env python3
"""Measures what it costs to be seen: CPU time of the edge per request with everything on against everything off.

    cargo build --release
    python3 benches/observing/run.py                 # 20 rounds of twice 1 s for each: 9 minutes

Four edges stand side by side and take turns: `off` (no access log, nobody scrapes), `on` (JSON access log in a file, a shadow
profile, a scrape and a look at the status every second) and `odd` (as `on`, and each answer has a field that is found and
reported). Counters cannot be turned off: `cargo bench --bench observing` has their share. A round goes through the edges forth
and back, so that what drifts on the machine is the same for all, and starts them anew, so that none is dearer in all rounds for
where its memory happens to lie; the figure to quote is the ratio to `off` in the same round, median over the rounds, with its
quartiles. `again` is a second `off`: its quartiles tell what the machine can tell. The last line is PASS where `on` stays within
5 % for both protocols, else FAIL, and the exit status 1. Edges on CPU 0, load and origin on CPU 1; needs nginx, h2load, openssl,
taskset.
"""
import argparse, json, os, pathlib, shutil, signal, statistics, sys, tempfile, threading, urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "peers"))
import peers, scenarios


def cpu_seconds(pid):
    """To the nanosecond, all threads."""
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


OFF = ("off", "again")


class Edge:
    def __init__(self, folder, number, name, origin):
        self.port, self.admin, self.stop = peers.free_port(), peers.free_port(), threading.Event()
        self.path = "/odd" if name == "odd" else "/1k"
        base = pathlib.Path(folder) / f"{name}-{number}"
        (base / "sites").mkdir(parents=True)
        (base / "certs/bench").mkdir(parents=True)
        shutil.copy(f"{folder}/ecdsa.crt", base / "certs/bench/fullchain.pem")
        shutil.copy(f"{folder}/ecdsa.key", base / "certs/bench/privkey.pem")
        (base / "sites/bench.toml").write_text(
            f'hosts = ["{peers.HOST}"]\nupstreams = ["http://127.0.0.1:{origin}"]\nlimits = {{ in_flight = 2048 }}\n')
        seen = '[log]\naccess = "access.log"\nformat = "json"\n[headers]\nshadow = "reject"\n'
        main = f"""[listen]
https = ["127.0.0.1:{self.port}"]
http = []
admin = "127.0.0.1:{self.admin}"
[runtime]
threads = 1
""" + ('[log]\naccess = "off"\n' if name in OFF else seen)
        (base / "sluss.toml").write_text(main)
        self.base, self.name = base, name
        log = open(base / "out", "w")
        command = ["taskset", "-c", "0", ARGS.sluss, "run", "-c", str(base / "sluss.toml")]
        self.child = peers.subprocess.Popen(command, stdout=log, stderr=log)
        peers.wait_for(self.port)

    def watch(self):
        while not self.stop.wait(1):
            for path in ("/metrics", "/api/status"):
                urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=5).read()

    def measure(self, protocol, seconds):
        """CPU microseconds a request."""
        shape = ["--h1", "-c", "64"] if protocol == "h1" else ["-c", "16", "-m", "32"]
        self.stop.clear()
        watcher = threading.Thread(target=self.watch)
        if self.name not in OFF:
            watcher.start()
        before = cpu_seconds(self.child.pid)
        count = scenarios.h2load(self.port, self.path, *shape, "-D", str(seconds), "--warm-up-time", "0").count
        cost = (cpu_seconds(self.child.pid) - before) * 1e6 / count
        self.stop.set()
        if self.name not in OFF:
            watcher.join()
        if (log := self.base / "access.log").exists():
            with open(log, "w"):
                pass
        return cost

    def lines_lost(self):
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/api/status", timeout=5).read()
        return json.loads(text)["access_log"]["dropped"]


    def end(self):
        self.child.terminate()
        try:
            self.child.wait(10)
        except peers.subprocess.TimeoutExpired:
            self.child.kill()
        shutil.rmtree(self.base, ignore_errors=True)


def measure(folder, number, origin, rows):
    """One round of new edges; how many log lines were lost in it."""
    edges = []
    try:
        for name in ("off", "again", "on", "odd"):
            edges.append(Edge(folder, number, name, origin))
        for protocol in rows:
            for edge in edges:
                edge.measure(protocol, 1)
            forth = [edge.measure(protocol, ARGS.seconds) for edge in edges]
            back = [edge.measure(protocol, ARGS.seconds) for edge in reversed(edges)]
            for edge, one, other in zip(edges, forth, reversed(back)):
                rows[protocol].setdefault(edge.name, []).append((one + other) / 2)
        return sum(edge.lines_lost() for edge in edges)
    finally:
        for edge in edges:
            edge.end()


def tell(protocol, row):
    """Prints what a protocol's rounds gave; whether `on` stays within 5 %."""
    print(f"\n{protocol}: CPU us per request, median (least to most); ratio to off in the same round, median (quartiles)")
    within = False
    for name, costs in row.items():
        ratios = [mine / off for mine, off in zip(costs, row["off"])]
        low, ratio, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        if name == "on":
            within = ratio <= 1.05
        print(f"  {name:5} {statistics.median(costs):7.2f}  ({min(costs):.2f} to {max(costs):.2f})  {ratio:.3f} ({low:.3f} to {high:.3f})",
              flush=True)
    return within


def main():
    folder = tempfile.mkdtemp(prefix="sluss-observing-")
    os.chmod(folder, 0o755)  # nginx reads its files as another user
    origin = None
    try:
        peers.certificate(folder, "ecdsa", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
        site = peers.Peers(folder, "ecdsa", ARGS.sluss)
        (pathlib.Path(folder) / "www").mkdir()
        (pathlib.Path(folder) / "www/1k").write_bytes(b"x" * 1024)
        conf = peers.NGINX_HEAD.format(d=folder, n="origin") + f"""
  server {{ listen 127.0.0.1:{site.origin} backlog=4096; root {folder}/www;
    location = /odd {{ try_files /1k =404; add_header X-Title "caf\u00e9"; }} }} }}"""
        command = ["nginx", "-p", folder, "-e", f"{folder}/origin.log", "-c"]
        origin = site.spawn("origin", conf, command, 1, site.origin)
        rows = {"h1": {}, "h2": {}}
        lost = sum(measure(folder, number, site.origin, rows) for number in range(ARGS.rounds))
        within = [tell(protocol, row) for protocol, row in rows.items()]
        print("\nlog lines lost:", lost)
        print("PASS" if all(within) else "FAIL", " everything on costs at most 5 % more CPU time a request than off")
        return all(within)
    finally:
        if origin:
            origin.send_signal(signal.SIGTERM)
            origin.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluss", default=str(peers.ROOT / "target/release/sluss"))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=1)
    ARGS = parser.parse_args()
    sys.exit(0 if main() else 1)
