#!/usr/bin/env python3
"""What the load generator and `sluss size` promise, one line of PASS or FAIL each.

    cargo build --release
    python3 benches/load/run.py                 # everything: some 13 minutes, most of it `sluss size` twice
    python3 benches/load/run.py --only generator        # a minute
    python3 benches/load/run.py --quick                 # rough figures, 5 minutes: tests this script

The server has CPU 0, the generator CPU 1; `sluss size` divides the cores in the same way. The figures:

    schedule    p99 of how late 5,000 requests a second are begun, under 0.2 ms
    client      full TLS 1.3 handshakes with an ECDSA server for a second of the generator's CPU, 4,000 at least; the median of
                three runs at a rate at which all complete, since one that is refused or given up costs less or gives none
    rsa         5 times what a one-core RSA-2048 server completes is offered, and the generator is not late
    agreement   two runs of `sluss size` differ by less than 10 %, in each figure that both measured: one that is "at least"
                so much is the generator's end and not the edge's
    h2load      the handshakes of `sluss size` are within 10 % of what h2load gets from an edge like it for a second
                of that edge's CPU: each connection new, one request, all at once and none refused. It runs before
                and after each `sluss size`, which is compared with the mean of both sides, since the machine does
                not keep its speed for so long. (h2load's own core is often full before the edge's is: what it
                gets a second is then its own capacity, and an edge that is not busy pays for being woken)

A machine that does something else makes them fail: what runs beside is told first. Exit code 1 where a line
fails. Needs nginx, h2load, openssl and taskset; loopback only; everything started here is ended here, by its
process id.
"""
import argparse, json, os, pathlib, re, shutil, statistics, subprocess, sys, tempfile, time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "peers"))
import peers

SCHEDULE_MS = 0.2
CLIENT_PER_SECOND = 4_000
# Of an arrival in an overload of 5 times the capacity: what is later cannot tell of a wait of 250 ms.
LATE_MS = 25
APART = 0.10
# Of what is offered, where the work of a client is counted by what was completed; and how often the rate is lowered until it is.
ALL, LOWER, LOWERED = 0.995, 0.7, 6
# Beyond what any edge here completes, for its saturation.
FLOOD = 4_000
FIGURE = re.compile(r"^(.+): (\d+)/s, (measured|at least)", re.MULTILINE)
FAILED = []


def tell(name, holds, words):
    if not holds:
        FAILED.append(name)
    print(f"{'PASS' if holds else 'FAIL'}  {name:10} {words}", flush=True)


def load(port, seconds, traffic):
    command = ["taskset", "-c", "1", ARGS.sluss, "load", f"https://{peers.HOST}:{port}/", "--connect",
               f"127.0.0.1:{port}", "--insecure", "--json", "--duration", f"{seconds}s", "--traffic", traffic]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds * 6 + 60)
    if not done.stdout:
        raise RuntimeError(done.stderr[-500:])
    return json.loads(done.stdout)["traffics"][0]


def server(folder, key):
    """One that answers by itself, on one core."""
    port = peers.free_port()
    conf = peers.NGINX_HEAD.format(d=folder, n=f"server-{key}") + f"""
  ssl_certificate {folder}/{key}.crt; ssl_certificate_key {folder}/{key}.key; ssl_protocols TLSv1.3;
  ssl_session_tickets off; ssl_ecdh_curve X25519;
  server {{ listen 127.0.0.1:{port} ssl backlog=4096; location / {{ return 200 "hello"; }} }} }}"""
    stage = peers.Peers(folder, key, ARGS.sluss)
    log = f"{folder}/server-{key}.log"
    return port, stage.spawn(f"server-{key}", conf, ["nginx", "-p", folder, "-e", log, "-c"], 0, port)


HANDSHAKES = "kind=handshakes,sources=64,timeout=1500ms,group=x25519"


def attempt(name, work, *arguments):
    """One line fails where its work cannot be done; the next ones are still tried."""
    try:
        work(*arguments)
    except (RuntimeError, OSError, KeyError, ValueError, subprocess.SubprocessError) as error:
        tell(name, False, f"could not be measured: {' '.join(str(error).split())[-300:] or type(error).__name__}")


def schedule(port, seconds):
    load(port, 1, "kind=requests,rate=500,connections=16")
    lane = load(port, seconds, "kind=requests,rate=5000,connections=16,arrivals=constant")
    late = lane["generator"]["lateness"]
    tell("schedule", late["p99"] < SCHEDULE_MS, f"5,000 requests/s: begun {late['p50']:.3f} ms late at p50, "
         f"{late['p99']:.3f} at p99 (goal {SCHEDULE_MS}), {late['max']:.1f} at most")


def client(port, seconds):
    most = load(port, 2, f"{HANDSHAKES},rate={FLOOD}")["completed_per_second"]
    rate, runs = LOWER * most, []
    for _ in range(LOWERED + 2):
        lane = load(port, seconds, f"{HANDSHAKES},rate={max(rate, 50):.0f}")
        if lane["outcomes"].get("completed", 0) < ALL * lane["offered"]:
            rate, runs = LOWER * rate, []
            continue
        cpu = lane["generator"]["thread_cpu"]
        runs.append((lane["completed_per_second"] / max(cpu, 1e-9), lane["completed_per_second"], cpu))
        if len(runs) == 3:
            break
    else:
        return tell("client", False, f"three runs in which all complete were not to be had, down to {rate:,.0f}/s: a busy machine?")
    each, done, cpu = sorted(runs)[1]
    tell("client", each >= CLIENT_PER_SECOND, f"{each:,.0f} full ECDSA handshakes for a second of CPU (goal {CLIENT_PER_SECOND:,}; runs "
         f"{', '.join(f'{run[0]:,.0f}' for run in runs)}); {done:,.0f}/s, all completed, took {cpu:.0%} of the core; {most:,.0f}/s is "
         f"what the server can")


def rsa(port, seconds):
    most = load(port, 2, f"{HANDSHAKES},rate={FLOOD}")["completed_per_second"]
    lane = load(port, seconds, f"{HANDSHAKES},rate={max(5 * most, 1):.0f}")
    late, cpu = lane["generator"]["lateness"], lane["generator"]["thread_cpu"]
    unsent = lane["outcomes"].get("not_sent", 0)
    tell("rsa", late["p99"] < LATE_MS and not unsent, f"{lane['offered_per_second']:,.0f}/s offered to a server of "
         f"{most:,.0f}/s: begun {late['p99']:.1f} ms late at p99 (goal {LATE_MS}), {unsent} not sent, {cpu:.0%} of the core")


def generator(folder):
    seconds = 3 if ARGS.quick else 10
    for key, lines in (("ecdsa", (schedule, client)), ("rsa", (rsa,))):
        port, child = server(folder, key)
        try:
            for line in lines:
                attempt(line.__name__, line, port, seconds)
        finally:
            peers.stop(child)


def size(folder, run):
    """The figures of one run, by kind, and which of them are the generator's end."""
    base = pathlib.Path(folder) / "size"
    for sub in ("sites", "certs/ecdsa", "certs/rsa"):
        (base / sub).mkdir(parents=True, exist_ok=True)
    for key in ("ecdsa", "rsa"):
        shutil.copy(f"{folder}/{key}.crt", base / f"certs/{key}/fullchain.pem")
        shutil.copy(f"{folder}/{key}.key", base / f"certs/{key}/privkey.pem")
    (base / "sites/bench.toml").write_text(f'hosts = ["{peers.HOST}"]\nupstreams = ["http://127.0.0.1:9"]\n')
    (base / "sluss.toml").write_text('[listen]\nhttps = ["127.0.0.1:0"]\nhttp = []\nadmin = "127.0.0.1:0"\n')
    command = [ARGS.sluss, "size", "-c", f"{base}/sluss.toml", "--out", f"{base}/{run}.toml"]
    begun = time.time()
    done = subprocess.run(command + ["--quick"] * ARGS.quick, capture_output=True, text=True, timeout=660)
    told = done.stdout + done.stderr
    found = FIGURE.findall(told)
    figures = {kind: int(figure) for kind, figure, _ in found}
    tell(f"size {run}", done.returncode == 0, f"{time.time() - begun:.0f} s; " + (
        ", ".join(f"{kind} {'>=' * (how == 'at least')}{int(figure):,}/s" for kind, figure, how in found)
        if done.returncode == 0 else " ".join(told.split())[-300:]))
    return figures, {kind for kind, _, how in found if how == "at least"}


def h2load(port, count):
    """Connections a second, each with one request, where all come at once."""
    command = ["taskset", "-c", "1", "h2load", "--h1", "-n", str(count), "-c", str(count), f"--connect-to=127.0.0.1:{port}",
               "--groups=X25519", f"https://{peers.HOST}:{port}/1k"]
    text = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    done, took = re.search(r"(\d+) succeeded", text), re.search(r"finished in ([\d.]+)(ms|s)", text)
    if not done or int(done.group(1)) < count:
        raise RuntimeError(text[-500:])
    return count / float(took.group(1)) * (1000 if took.group(2) == "ms" else 1)


def by_cpu(port, pid, count):
    """Handshakes for a second of the edge's CPU; and the part of its core that it had."""
    before = peers.cpu_seconds(peers.tree(pid))
    rate = h2load(port, count)
    spent = peers.cpu_seconds(peers.tree(pid)) - before
    return count / spent, spent * rate / count


def others(folder, key):
    """What h2load gets for a second of an edge's CPU with that key, and how busy the edge was; the median of three."""
    stage = peers.Peers(folder, key, ARGS.sluss)
    origin = stage.start_origin()
    port, child = stage.sluss(queues='request_depth = 20000\nhandshake_depth = 1000000\nhandshake_deadline = "60s"')
    try:
        h2load(port, 200)
        return sorted(by_cpu(port, child.pid, 1000 if ARGS.quick else 4000) for _ in range(3))[1]
    finally:
        peers.stop(child)
        peers.stop(origin)


def sizing(folder):
    beside, runs = [by_key(folder)], []
    for run in (1, 2):
        runs.append(size(folder, run))
        beside.append(by_key(folder))
    (first, bounds), (second, more) = runs
    bounds = bounds | more
    if first.keys() != second.keys() or first.keys() <= bounds:
        return tell("agreement", False, "there are not two runs to compare")
    apart = {kind: abs(first[kind] - second[kind]) / max(first[kind], second[kind]) for kind in first if kind not in bounds}
    widest = max(apart, key=apart.get)
    tell("agreement", apart[widest] <= APART, ", ".join(f"{kind} {share:.1%}" for kind, share in apart.items()))
    for key, name in (("ecdsa", "ECDSA"), ("rsa", "RSA")):
        kind = next(kind for kind in first if kind.startswith(name))
        sides = [statistics.mean((before[key][0], after[key][0])) for before, after in zip(beside, beside[1:])]
        ratios = [figures[kind] / side for (figures, _), side in zip(runs, sides)]
        mean, busy = statistics.mean(ratios), statistics.mean(each[key][1] for each in beside)
        # A lower bound can only be too high.
        off = max(0, mean - 1) if kind in bounds else abs(mean - 1)
        tell("h2load", off <= APART, f"{kind}: size to h2load {mean:.2f}{' at least' * (kind in bounds)} (" + ", ".join(
            f"{figures[kind]:,}/s to {side:,.0f} for a second of CPU" for (figures, _), side in zip(runs, sides))
            + f"), the edge {busy:.0%} busy")


def by_key(folder):
    return {key: others(folder, key) for key in ("ecdsa", "rsa")}


def main():
    busy = os.getloadavg()[0]
    if busy > 0.5:
        print(f"note: the load average is {busy:.1f}; the goals are for a machine that does nothing else")
    print(peers.stalls(), flush=True)
    folder = tempfile.mkdtemp(prefix="sluss-load-")
    os.chmod(folder, 0o755)
    try:
        peers.certificate(folder, "ecdsa", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
        peers.certificate(folder, "rsa", "rsa:2048")
        if "generator" in ARGS.only:
            generator(folder)
        if "size" in ARGS.only:
            attempt("sizing", sizing, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{len(FAILED)} failed" + (": " + ", ".join(FAILED) if FAILED else ""))
    sys.exit(1 if FAILED else 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluss", default=str(HERE.parents[1] / "target/release/sluss"))
    parser.add_argument("--only", nargs="*", choices=["generator", "size"], default=["generator", "size"])
    parser.add_argument("--quick", action="store_true")
    ARGS = parser.parse_args()
    main()
