#!/usr/bin/env python3
"""Measures sluss beside other proxies: CPU time of the proxy by operation, same work, same run.

    python3 benches/peers/install.py                # newer builds and the Rust peers, into target/peers/
    cargo build --release && cargo build --profile quick --example websocket
    python3 benches/pgo.py                          # sluss built with a profile, a row of its own
    python3 benches/peers/run.py                    # all scenarios and peers, 3 interleaved rounds
    python3 benches/peers/run.py --quick            # one scenario, one short round
    python3 benches/peers/run.py --scenario h1 h2 --rounds 5 --seconds 4 --only sluss nginx
    python3 benches/peers/run.py --render target/peers/results.json --markdown docs/performance.md
    python3 benches/peers/run.py --self-check       # tests tables and plots without running anything

One proxy at a time on CPU 0; load and origin on CPU 1. The figure to quote is CPU time (user + system,
all threads and children, from /proc) by operation, as median and spread over the rounds: it survives a
noisy machine, throughput and latency do not. Peers that are not installed are named and left out.
Each step is bounded in time. A proxy that is not done by then, or fails, is marked so with the reason, and the run goes on.
Results go to target/peers/results.json, those of earlier runs in the file stay where nothing newer is;
--render makes the tables of docs/performance.md, between its markers, and the plots beside it.
Needs nginx (also as the origin), h2load, openssl and taskset; `sites` needs python3-cryptography.
Loopback only; everything started here is ended here, by its process id.
"""
import argparse, contextlib, datetime, importlib.util, json, os, pathlib, shlex, shutil, signal, statistics, subprocess, sys, tempfile

import figures
from machine import *
from peers import CACHE, KNOWN, OURS, WITH_PROFILE, Peers, number, site
from scenarios import SCENARIOS, WEBSOCKET, idle

WARM_UP = 1
LOAD = 0.7
# What one step of a scenario may take, seconds: the start of a proxy; its work, beside the time asked for; idle connections.
START_MAX, WORK_MAX, IDLE_MAX = 200, 60, 150


def installed():
    """Name to version of everybody who can take part; says who cannot."""
    found = {name: number(program, "--version") + ", rustls with AWS-LC"
             for name, program in zip(OURS, (ARGS.sluss, str(WITH_PROFILE))) if shutil.which(program)}
    for name, known in KNOWN.items():
        if ARGS.only and name not in ARGS.only:
            continue
        if program := known.find():
            found[name] = known.version(program)
        else:
            print(f"{known.title} is not installed and left out ({known.program}; see benches/peers/install.py)")
    return {name: version for name, version in found.items() if not ARGS.only or name in ARGS.only}


@contextlib.contextmanager
def serving(stage, name):
    """A proxy that serves; ended at the end."""
    with bounded(START_MAX, "its start"):
        port, child = getattr(stage, name.replace("-", "_"))()
    try:
        with bounded(START_MAX, "its first answer"):
            wait_until_served(port, child, site(stage.sites - 1) if stage.sites else HOST)
        yield port, child
    finally:
        stop(child, KNOWN[name].end if name in KNOWN else signal.SIGTERM)


def measure(stage, name, scenario, work):
    """One round of one proxy: its figure, and what stands beside it."""
    with serving(stage, name) as (port, child):
        if scenario is SCENARIOS["idle"]:
            with bounded(IDLE_MAX, "its connections"):
                return {"figure": idle(stage, port, child), "resident": share_kib(child.pid) / 1024}
        with bounded(WORK_MAX + 5 * WARM_UP, "its warm-up"):
            work(stage, port, WARM_UP)
        with Watch(child.pid) as watch, bounded(WORK_MAX + 5 * ARGS.seconds, "its work"):
            done = work(stage, port, ARGS.seconds)
        cpu = watch.since(done.began) * 1e6 / done.count
        figure = done.p99 if scenario.figure == "p99 ms" else cpu
        return {"figure": figure, "cpu": cpu, "rate": done.count / done.seconds, "p50": done.p50, "p99": done.p99,
                "p999": done.p999, "resident": share_kib(child.pid) / 1024, "notes": done.notes}


# What a proxy that cannot do its work fails with.
FAILURES = (RuntimeError, OSError, subprocess.SubprocessError)


def tell_failed(failed, name, key, error):
    failed[name] = f"{error or type(error).__name__}"
    print(f"  {name} failed in {key}: {failed[name]}", flush=True)


def rates(stage, names, kind, measured, failed):
    """How much a second each could do of a kind: what its CPU time by piece, kept busy, leaves room for. `measured` is what
    this run found before; who is not in it is measured."""
    rates = {}
    for name in names:
        try:
            rounds = measured.get(name) or [measure(stage, name, SCENARIOS[kind], SCENARIOS[kind].work)]
        except FAILURES as error:
            tell_failed(failed, name, kind, error)
            continue
        rates[name] = 1e6 / statistics.median(one["cpu"] for one in rounds)
        print(f"  {name:12} could do {rates[name]:8.0f} {SCENARIOS[kind].unit}s a second", flush=True)
    return rates


def start_origin(stage, scenario):
    if scenario.origin == "echo":
        return stage.start("echo", [str(WEBSOCKET), "echo", f"127.0.0.1:{stage.origin}"], 1, stage.origin)
    return stage.start_origin()


def run(key, scenario, folder, versions, measured):
    """All rounds of a scenario: its title and, by proxy, the rounds."""
    names = [name for name in versions if not scenario.many_sites or name in OURS or KNOWN[name].many_sites]
    if left := [KNOWN[name].title for name in versions if name not in names]:
        print(f"  not set up for many sites: {', '.join(left)}")
    stage = Peers(folder, scenario.key, ARGS.sluss, ARGS.sites if scenario.many_sites else 0)
    failed, rows, title = {}, {name: [] for name in names}, scenario.title.format(sites=ARGS.sites, rate=0)
    origin = start_origin(stage, scenario)
    try:
        works = dict.fromkeys(names, scenario.work)
        if scenario.load:
            able = rates(stage, names, scenario.load, measured.get(scenario.load, {}), failed)
            names = list(able)
            shared = LOAD * min(able.values(), default=0)
            title = scenario.title.format(rate=int(shared))
            works = {name: scenario.work(shared if scenario.shared else LOAD * able[name]) for name in names}
        for turn in range(ARGS.rounds):
            # There and back: what becomes slower over a round does so for everybody.
            for name in names[::-1] if turn % 2 else names:
                try:
                    rows[name].append(measure(stage, name, scenario, works[name]))
                except FAILURES as error:
                    tell_failed(failed, name, key, error)
    finally:
        stop(origin)
    return {"title": title, "unit": scenario.unit, "figure": scenario.figure, "date": f"{datetime.date.today()}",
            "seconds": ARGS.seconds, "failed": failed, "rows": {name: rounds for name, rounds in rows.items() if rounds}}


def certificates(folder, wanted):
    certificate(folder, "ecdsa", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    certificate(folder, "rsa", "rsa:2048")
    if any(SCENARIOS[key].many_sites for key in wanted):
        spec = importlib.util.spec_from_file_location("certs", ROOT / "benches/certs/run.py")
        certs = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(certs)
        authority = certs.Authority(folder)
        for at in range(ARGS.sites):
            authority.issue(at)


def ended(*_):
    """Ends what was started, then this; a second signal does not disturb that."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit("ended")


def possible(key):
    if SCENARIOS[key].origin == "echo" and not WEBSOCKET.exists():
        print(f"{key} is left out: {WEBSOCKET} is missing (cargo build --profile quick --example websocket)")
        return False
    if SCENARIOS[key].many_sites and not importlib.util.find_spec("cryptography"):
        print(f"{key} is left out: it needs python3-cryptography")
        return False
    return True


def main():
    wanted = [key for key in (ARGS.scenario or SCENARIOS) if possible(key)]
    if not shutil.which(ARGS.sluss):
        sys.exit(f"{ARGS.sluss} is missing: cargo build --release, or name another with --sluss")
    signal.signal(signal.SIGTERM, ended)
    versions = installed()
    os.sched_setaffinity(0, {1})  # CPU 0 is the proxy's alone.
    results = {"runs": [], "scenarios": {}}
    out = pathlib.Path(ARGS.json)
    if out.exists() and not ARGS.quick:
        results = json.loads(out.read_text())
    results["runs"].append({"date": f"{datetime.datetime.now():%Y-%m-%d %H:%M}", "machine": about(), "versions": versions,
                            "command": shlex.join(["python3", "benches/peers/run.py", *sys.argv[1:]]),
                            "load_average": os.getloadavg()[0]})
    folder = tempfile.mkdtemp(prefix="sluss-peers-")
    os.chmod(folder, 0o755)  # nginx's worker may be another user
    try:
        certificates(folder, wanted)
        measured = {}
        for key in wanted:
            print(f"\n{key}", flush=True)
            results["scenarios"][key] = found = run(key, SCENARIOS[key], folder, versions, measured)
            measured[key] = found["rows"]
            print(figures.text(found), flush=True)
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(results, indent=1))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluss", default=str(ROOT / "target/release/sluss"))
    parser.add_argument("--scenario", nargs="*", choices=SCENARIOS)
    parser.add_argument("--only", nargs="*", choices=[*OURS, *KNOWN])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--sites", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", metavar="FILE", default=str(CACHE / "results.json"))
    parser.add_argument("--render", metavar="FILE", help="run nothing; make tables of these results")
    parser.add_argument("--markdown", metavar="FILE", help="with --render: put them between this file's markers, plots beside it")
    parser.add_argument("--self-check", action="store_true")
    ARGS = parser.parse_args()
    if ARGS.quick:
        ARGS.rounds, ARGS.seconds, ARGS.scenario = 1, 1, ARGS.scenario or ["h1"]
    if ARGS.self_check:
        figures.check()
    elif ARGS.render:
        figures.render(json.loads(pathlib.Path(ARGS.render).read_text()), ARGS.markdown)
    else:
        main()
