#!/usr/bin/env python3
"""One site is flooded: what do the others lose? sluss beside nginx and HAProxy, with goals that pass or fail.

    cargo build --release
    python3 benches/overload/fairness.py                  # all four experiments, RSA-2048; 10 minutes
    python3 benches/overload/fairness.py --key rsa4096    # ten times the capacity is within a generator's reach
    python3 benches/overload/fairness.py --experiment sites --only sluss control
    python3 benches/overload/fairness.py --quick          # the first, briefly, sluss alone: tests this script

  sites         one site gets ten times the edge's capacity of full handshakes, 20 others their usual rate (together a fifth
                of the capacity). They lose 1 % at most, and their handshakes' p99 stays within twice the unloaded one.
  names         the same among 10,000 sites: one is flooded, visitors come to all the others.
  upstream      one site's server does 80 requests a second and is asked for 800; 20 other sites are asked for 100 together.
                They lose 1 % at most, and their p99 stays within twice the unloaded one.
  resumption    a site is flooded with full handshakes; those of its own visitors who resume a session, and those of
                another site's, get in: 99 % at least.

The proxy has CPU 0, load and origins CPU 1, a flood of handshakes from a generator that gives way. The capacity is found
first, as in run.py. Each experiment is one open-loop run: the usual visitors alone, then beside the flood. Exit status 1 where sluss misses a goal, or where the control misses none:
that is sluss with fairness, deadline and isolation switched off in its configuration: one line of all handshakes in order of arrival
(in `upstream`: one site), queues that hold all and let nobody go, handshake threads of the same priority. The peers are judged alike, for comparison; they know no sites before the handshake,
nor a queue for each site's requests. Clients of the flood and those who resume give up after 1.5 s, the others after 5 s.

Needs what run.py needs. Loopback only; everything started here is ended here, by its process id.
"""
import argparse, json, pathlib, shutil, sys

import run as overload
import stage as lab
from stage import peers

BEFORE = 5
SITES, NAMES = 20, 9_999
# The slow site's server: so many at a time, seconds for each.
WORKERS, DELAY = 16, 0.2
ENDLESS = f'request_depth = 1000000\n{lab.UNBOUNDED}\nrequest_deadline = "1h"\nin_flight = 1000000'
BOUNDED = 'request_depth = 256\nhandshake_deadline = "250ms"'


def others(count):
    return [f"site{number}.{lab.DOMAIN}" for number in range(count)]


FLOODED, BESIDE = f"flooded.{lab.DOMAIN}", f"beside.{lab.DOMAIN}"


def site(hosts, upstreams, more=""):
    return f"hosts = {json.dumps(hosts)}\nupstreams = {json.dumps(upstreams)}\n{more}\n"


def sites(stage, names, flooded_by=None):
    """A file for each site."""
    quick = f"http://127.0.0.1:{stage.origin}"
    files = {name.split(".")[0]: site([name], [quick]) for name in names}
    files["flooded"] = site([FLOODED], [flooded_by or quick])
    files["bench"] = site([lab.DOMAIN, BESIDE], [quick])
    return files


def hosts_file(stage, names):
    path = pathlib.Path(stage.d) / "hosts"
    path.write_text("\n".join(names) + "\n")
    return path


def start(name, stage, files):
    if name == "sluss":
        return lab.edge(stage, files, BOUNDED, name)
    if name == "control":
        return lab.edge(stage, files, ENDLESS, name, lab.UNISOLATED)
    return (*getattr(stage, name)(), None)


def compare(goals, title, before, during, bound=2.0):
    """Who comes as usual, before the flood and beside it."""
    lost = 100 - lab.counted(during, "completed") / max(1, during["offered"]) * 100
    worst = min((entry["outcomes"].get("completed", 0) / entry["offered"] for entry in during["hosts"] if entry["offered"] >= 20), default=1)
    was, now = lab.quantile(before, "p99"), lab.quantile(during, "p99")
    print(f"    {title}: {during['offered']} came, p99 {was:.2f} before, {now:.2f} ms beside; the worst-served site got {worst:.1%}")
    goals.at_most(f"{title} lost", lost, 1, "%")
    goals.at_most(f"{title}' p99", now, bound * was, "ms")


def told(lanes):
    if why := lab.behind(lanes):
        print(f"         the generator: {why}")


def flood_rate(port):
    _, most = overload.find_capacity(port)
    rate = min(10 * most, overload.GENERATOR * 0.8)
    print(f"    capacity {most:.0f} full handshakes a second, flood {rate:.0f} a second")
    return most, rate


def flood(rate):
    return (f"kind=handshakes,host={FLOODED},sources={lab.SOURCES},rate={rate:.0f},timeout=1500ms,name=flood,"
            f"start={BEFORE}s,duration={ARGS.seconds}s")


def among(names):
    def run(name, stage, goals):
        port, child, _ = start(name, stage, sites(stage, names))
        try:
            lab.load(ARGS.sluss, port, 1, "kind=requests,rate=200,name=warm")
            most, rate = flood_rate(port)
            usual = f"kind=handshakes,timeout=5s,rate={most / 5:.0f},hosts={hosts_file(stage, names)}"
            lanes = lab.beside(ARGS.sluss, port, BEFORE + ARGS.seconds, [flood(rate)],
                               f"{usual},name=before,start=0s,duration={BEFORE}s",
                               f"{usual},name=others,start={BEFORE}s,duration={ARGS.seconds}s")
            storm = lanes["flood"]
            print(f"    the flooded site: {storm['offered']} came, {lab.counted(storm, 'completed')} completed,"
                  f" {lab.counted(storm, *lab.REFUSED)} refused, {lab.counted(storm, *lab.HANGING)} left hanging")
            compare(goals, "the others", lanes["before"], lanes["others"])
            told(lanes)
        finally:
            peers.stop(child)
    return run


def upstream(name, stage, goals):
    slow, origin = lab.slow_origin(WORKERS, DELAY)
    able, names = WORKERS / DELAY, others(SITES)
    if name == "control":
        # One queue for all: what has no sites.
        quick = f"http://127.0.0.1:{stage.origin}"
        files = {"all": site([lab.DOMAIN, FLOODED, *names], [f"http://127.0.0.1:{slow}", quick], 'balance = "round-robin"')}
    else:
        files = sites(stage, names, f"http://127.0.0.1:{slow}")
    port, child, _ = lab.edge(stage, files, ENDLESS if name == "control" else BOUNDED, name)
    try:
        usual = f"kind=requests,timeout=5s,rate=100,connections=40,hosts={hosts_file(stage, names)}"
        lanes = lab.load(ARGS.sluss, port, BEFORE + ARGS.seconds,
                         f"{usual},name=before,start=0s,duration={BEFORE}s",
                         f"{usual},name=others,start={BEFORE}s,duration={ARGS.seconds}s",
                         f"kind=requests,host={FLOODED},protocol=h2,streams=64,connections=64,rate={10 * able:.0f},timeout=15s,"
                         f"name=flood,start={BEFORE}s,duration={ARGS.seconds}s")
        storm = lanes["flood"]
        served = lab.counted(storm, "completed") / ARGS.seconds
        print(f"    the slow site: {storm['offered']} came, {served:.0f} a second completed of {able:.0f} that its server can,"
              f" {lab.counted(storm, *lab.REFUSED)} refused, p99 of the completed {lab.quantile(storm, 'p99'):.0f} ms")
        compare(goals, "the others", lanes["before"], lanes["others"])
        told(lanes)
    finally:
        peers.stop(child)
        origin.terminate()


def resumption(name, stage, goals):
    port, child, _ = start(name, stage, sites(stage, []))
    try:
        lab.load(ARGS.sluss, port, 1, "kind=requests,rate=200,name=warm")
        most, rate = flood_rate(port)
        # As patient as the flood: one that is served after it has waited for all of that is not kept.
        resumed = f"kind=resumed,timeout=1500ms,rate={most / 20:.0f},start=0s,duration={BEFORE + ARGS.seconds}s"
        lanes = lab.beside(ARGS.sluss, port, BEFORE + ARGS.seconds, [flood(rate)],
                           f"{resumed},host={FLOODED},name=its-own", f"{resumed},host={BESIDE},name=the-others")
        for lane in (lanes["its-own"], lanes["the-others"]):
            title = lane["name"]
            print(f"    {title}: {lane['offered']} came back, {lane['resumed']} resumed, p99 {lab.quantile(lane, 'p99'):.2f} ms; {lane['outcomes']}")
            goals.at_least(f"resumptions kept, {title}", lane["resumed"] / max(1, lane["offered"]) * 100, 99, "%")
        told(lanes)
    finally:
        peers.stop(child)


# What is run, and beside whom: nginx and HAProxy have no queue of a site's requests to compare.
EXPERIMENTS = {
    "sites": (among(others(SITES)), ["sluss", "control", "nginx", "haproxy"]),
    "names": (among(others(NAMES)), ["sluss", "control"]),
    "upstream": (upstream, ["sluss", "control"]),
    "resumption": (resumption, ["sluss", "control", "nginx", "haproxy"]),
}


def main():
    print(peers.stalls(), flush=True)
    summary, sound = [], True
    with lab.staged("fairness", ARGS.key, ARGS.sluss) as stage:
        for experiment in ARGS.experiment or EXPERIMENTS:
            work, whom = EXPERIMENTS[experiment]
            for name in whom:
                if name not in (ARGS.only or whom) or (name in ("nginx", "haproxy") and not shutil.which(name)):
                    continue
                print(f"\n{experiment}: {name}, {ARGS.key}", flush=True)
                goals = lab.Goals()
                work(name, stage, goals)
                verdict = f"misses {', '.join(goals.failed)}" if goals.failed else "meets all goals"
                summary.append(f"{experiment}: {name} {verdict}")
                if (name == "sluss" and goals.failed) or (name == "control" and not goals.failed):
                    sound = False
    print("\n" + "\n".join(summary))
    print("PASS" if sound else "FAIL  sluss misses a goal, or the control none")
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluss", default=str(lab.ROOT / "target/release/sluss"))
    parser.add_argument("--key", choices=list(overload.PLATEAUS), default="rsa")
    parser.add_argument("--experiment", nargs="*", choices=list(EXPERIMENTS))
    parser.add_argument("--only", nargs="*", choices=["sluss", "control", "nginx", "haproxy"])
    parser.add_argument("--seconds", type=int, default=10, help="of each flood")
    parser.add_argument("--plateau", type=float, default=1.5, help="seconds of each rate in the search for the capacity")
    parser.add_argument("--quick", action="store_true")
    ARGS = parser.parse_args()
    if ARGS.quick:
        ARGS.experiment, ARGS.only, ARGS.seconds, ARGS.plateau = ["sites"], ["sluss"], 2, 0.5
    # Of run.py's search for the capacity.
    ARGS.patience = 1500
    overload.ARGS = ARGS
    main()
