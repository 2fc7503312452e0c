#!/usr/bin/env python3
"""A flood of new handshakes beside established traffic: sluss, nginx and HAProxy in one run, with goals that pass or fail.

    cargo build --release
    python3 benches/overload/run.py                       # RSA-2048 at 1, 2, 5 and 10 times the capacity, three rounds; 25 minutes
    python3 benches/overload/run.py --key ecdsa
    python3 benches/overload/run.py --key rsa4096         # a slower edge: ten times its capacity is within a generator's reach
    python3 benches/overload/run.py --key p384            # the slower ECDSA; the generator's core is at its end all the same
    python3 benches/overload/run.py --quick               # one short step for sluss alone: tests this script

The proxy has CPU 0, load and origin CPU 1. First each proxy's own capacity, beside the established traffic: which of several
plateaus has the most full handshakes completed, and then what is completed at that rate, measured anew before each step and
after the last, since a machine does not keep its speed and the best of several figures is too high. A step offers a multiple of
the capacity before it and is judged by the mean of those on both sides. For each step one run of an open loop:
500 requests a second on 16 established connections (4 with rsa4096) all the time, from a generator of its own, to which that of
the flood gives way (nice 19), so that it does not measure the other's cryptography; 3 s alone, then with a flood at a multiple of the capacity,
then 4 s without it. Latency counts from when a request was due. Clients of the flood give up after 1.5 s.

Goals, at each step: established p99 at most 1.5 times the unloaded one (the median of that before each step's flood); of the
capacity 95 % completed; p99 of the completed within the deadline; all others refused, none left hanging, and after the first
second of the flood 999 in 1,000 of them within 50 ms of their SYN; the kernel's accept queue at most half full, no
ListenOverflow; 2 s after the flood latency and queue are as before. At the end the resident memory is what it was. Exit
status 1 where sluss misses one, or the control misses none: that is sluss with fairness, deadline and isolation switched off in
its configuration, so that its queue holds all, lets nobody go, and serves whoever came first.
`core us` is how long the proxy's threads waited for their core each time they wanted it during the flood, as the kernel counts it:
of the established p99 the part that no generator can have made. sluss' handshake threads, which are to wait, are not in it.
Before the steps: the established p99 without a flood on cores that something of the lowest priority keeps busy, which is what a busy
core costs on this machine, whoever made it so: the established p99 is held against 1.5 times that as well. nginx and HAProxy are
judged alike, for comparison; HAProxy once more, told to reject above 250 connections. A step that the generator cannot offer is
told and offered as far as it can.

Needs nginx (the origin), openssl and taskset; haproxy where there is one. Loopback only; everything started here is ended here, by its process id.
"""
import argparse, json, shutil, statistics, sys, time

import stage as lab
from stage import peers

# Unloaded before the flood, and calm after it, seconds.
BEFORE, AFTER = 3, 4
# Of a measurement of the capacity, seconds.
CAPACITY = 3
# One that completes no more than this part of the rate at which it did most collapses under it after a while: it is offered this part
# of it then, and so on, so many times.
COLLAPSED, LOWER, LOWERED = 0.3, 0.7, 5
# Between two runs requests are to be answered as usual again, ms at p99 of a second: what the last flood left in a proxy is not
# the next one's. So many seconds are given to it.
USUAL, SETTLE = 50, 15
# A burst may wait for the deadline; only a line that has stood for so long is told no sooner. Seconds, the deadline within.
ONSET = 1
RECOVERY = 2
# Of usual traffic after the last flood, before what is still resident is judged.
CALM = 5
# Resident memory at the worst moment, and what may be left of the rise when all is over, MiB.
RESIDENT, LEFT = 256, 16
# Handshakes a second that one core of a generator offers, and has answered, in time; beyond, it measures itself.
GENERATOR = 14_000
# haproxy-told rejects what comes above 250 connections.
PEERS = {"nginx": "nginx", "haproxy": "haproxy", "haproxy-told": "haproxy"}
# A core does some 250 handshakes a second with RSA-4096, so 10 times that is a third of what the generator's core offers.
PLATEAUS = {"rsa": (500, 4_000, 8), "ecdsa": (800, 6_400, 8), "p384": (600, 4_800, 8), "rsa4096": (60, 760, 8)}
# Established connections: those of three traffics are made at once before a run, well within the deadline.
CONNECTIONS = {"rsa": 16, "ecdsa": 16, "p384": 16, "rsa4096": 4}


def established(name, start, duration):
    return f"kind=requests,rate=500,connections={CONNECTIONS[ARGS.key]},name={name},start={start * 1000:.0f}ms,duration={duration * 1000:.0f}ms"


def flood(rate, name, start, duration):
    return f"kind=handshakes,sources={lab.SOURCES},rate={rate:.0f},timeout={ARGS.patience}ms,name={name},start={start * 1000:.0f}ms,duration={duration * 1000:.0f}ms"


def settle(port):
    """Waits until requests are answered as usual; one that never does so is measured as it is."""
    for _ in range(SETTLE):
        if lab.quantile(lab.load(ARGS.sluss, port, 1, established("settle", 0, 1))["settle"], "p99") < USUAL:
            return


def best_rate(port):
    """Handshakes a second to offer for the most to be completed."""
    low, high, steps = PLATEAUS[ARGS.key]
    rising = f"kind=handshakes,sources={lab.SOURCES},arrivals=step:{low}:{high}:{steps},timeout={ARGS.patience}ms,name=flood"
    lanes = lab.beside(ARGS.sluss, port, steps * ARGS.plateau, [rising], established("established", 0, steps * ARGS.plateau))
    done = [0] * steps
    for point in lanes["flood"]["series"]:
        # What is still waiting when the run ends is of no plateau.
        if point["at"] < steps * ARGS.plateau:
            done[int(point["at"] / ARGS.plateau + 1e-9)] += point["done"]
    return low + (high - low) * done.index(max(done)) / (steps - 1)


def capacity(port, rate):
    """Full handshakes completed a second, counted as in a step."""
    settle(port)
    total = ONSET + CAPACITY
    storm = [flood(rate, "onset", 0, ONSET), flood(rate, "flood", ONSET, CAPACITY)]
    lanes = lab.beside(ARGS.sluss, port, total, storm, established("established", 0, total))
    return lab.counted(lanes["flood"], "completed") / CAPACITY


def find_capacity(port):
    """A rate to offer, and what is completed of it."""
    best = best_rate(port)
    able = capacity(port, best)
    for _ in range(LOWERED):
        if able > COLLAPSED * best:
            break
        best *= LOWER
        able = capacity(port, best)
    return best, able


def recovered(before, after):
    """Seconds after the flood until a whole second was as the time before it, by p99 of each tenth of a second."""
    usual = 1.5 * max(point["p99"] for point in before["series"] if point["p99"] is not None)
    points = [(point["at"] - BEFORE - ARGS.seconds, point["p99"]) for point in after["series"] if point["p99"] is not None]
    for begin, _ in points:
        second = [p99 for at, p99 in points if begin <= at < begin + 1]
        if begin + 1 > AFTER:
            break
        if max(second) <= usual:
            return max(begin, 0)
    return float("inf")


def step(child, port, admin, rate):
    """One flood; the figures that goals are about."""
    settle(port)
    watch = lab.Watch(child, admin)
    total = BEFORE + ARGS.seconds + AFTER
    storm = [flood(rate, "onset", BEFORE, ONSET), flood(rate, "flood", BEFORE + ONSET, ARGS.seconds - ONSET)]
    lanes = lab.beside(ARGS.sluss, port, total, storm, established("before", 0, BEFORE),
                       established("established", BEFORE, ARGS.seconds), established("after", BEFORE + ARGS.seconds, AFTER))
    ended = time.monotonic() - AFTER
    watch.end()
    storm, onset = lanes["flood"], lanes["onset"]
    outcomes = {name: storm["outcomes"].get(name, 0) + onset["outcomes"].get(name, 0) for name in {**storm["outcomes"], **onset["outcomes"]}}
    waited = [sample["at"] for sample in watch.samples if sample["waiting"]]
    return {
        "offered": storm["offered_per_second"],
        "before": lab.quantile(lanes["before"], "p99"),
        "p50": lab.quantile(lanes["established"], "p50"),
        "p99": lab.quantile(lanes["established"], "p99"),
        "max": lab.quantile(lanes["established"], "max"),
        "lost": lanes["established"]["offered"] - lab.counted(lanes["established"], "completed"),
        "completed": lab.counted(storm, "completed") / (ARGS.seconds - ONSET),
        "new_p99": max(lab.quantile(storm, "p99"), lab.quantile(onset, "p99")),
        "refused": lab.counted(storm, *lab.REFUSED),
        "refused_p999": storm["refused"]["p999"],
        "refused_onset": onset["refused"]["p999"],
        "hanging": sum(outcomes.get(name, 0) for name in lab.HANGING),
        "odd": {name: count for name, count in outcomes.items() if name not in ("completed", "not_sent", *lab.REFUSED, *lab.HANGING)},
        "not_sent": outcomes.get("not_sent", 0),
        "kernel": watch.most("kernel"),
        "overflows": watch.overflows,
        "latency_back": recovered(lanes["before"], lanes["after"]),
        "queue_back": max(0.0, max(waited, default=0) - ended),
        "resident": watch.most("resident"),
        "core": watch.core_wait(ended - ARGS.seconds, ended),
        "behind": lab.behind({"established": lanes["established"], "flood": storm}),
    }


def judge(goals, name, figures, unloaded, busy):
    """`figures` of one step against the goals."""
    goals.at_most(f"{name}: established p99", figures["p99"], 1.5 * unloaded, "ms")
    goals.at_most(f"{name}: established p99 to that of busy cores", figures["p99"], 1.5 * busy, "ms")
    goals.hold(f"{name}: established requests lost", figures["lost"] == 0, figures["lost"])
    goals.at_least(f"{name}: completed, of what can be", figures["share"] * 100, 95, "%")
    goals.at_most(f"{name}: p99 of the completed", figures["new_p99"], ARGS.deadline, "ms")
    if figures["refused"]:
        goals.at_most(f"{name}: refused after, p99.9 (first second: {figures['refused_onset']:.0f} ms)", figures["refused_p999"], 50, "ms")
    goals.hold(f"{name}: left hanging", figures["hanging"] == 0, figures["hanging"])
    goals.hold(f"{name}: ended in other ways", not figures["odd"], figures["odd"] or "none")
    goals.at_most(f"{name}: kernel queue", figures["kernel"] * 100, 50, "%")
    goals.hold(f"{name}: ListenOverflows", figures["overflows"] == 0, figures["overflows"])
    goals.at_most(f"{name}: latency as before", figures["latency_back"], RECOVERY, "s")
    goals.at_most(f"{name}: queue empty", figures["queue_back"], RECOVERY, "s")
    if figures["not_sent"]:
        goals.hold(f"{name}: sent by the generator", False, f"{figures['not_sent']} were not")


def start(name, peers_stage):
    sites = {"bench": f'hosts = ["{lab.DOMAIN}"]\nupstreams = ["http://127.0.0.1:{peers_stage.origin}"]\nlimits = {{ in_flight = 2048 }}\n'}
    match name:
        case "sluss":
            return lab.edge(peers_stage, sites, f'request_depth = 4096\nhandshake_deadline = "{ARGS.deadline}ms"', name)
        case "control":
            return lab.edge(peers_stage, sites, f"request_depth = 4096\n{lab.UNBOUNDED}", name, lab.UNISOLATED)
        case _:
            return (*getattr(peers_stage, name.replace("-", "_"))(), None)


def over_rounds(rounds):
    """One figure of each kind: the median of what is measured, the worst of what is not to be."""
    def of(name):
        found = [figures[name] for figures in rounds]
        match name:
            case "odd":
                return {outcome: count for one in found for outcome, count in one.items()}
            case "behind":
                return " | ".join(dict.fromkeys(why for why in found if why))
            case "lost" | "hanging" | "not_sent" | "kernel" | "overflows" | "resident":
                return max(found)
        return statistics.median(found)
    return {name: of(name) for name in rounds[0]}


def steps(child, port, admin, best, able):
    """All steps, each as often as there are rounds: by multiple of the capacity, the figures of its rounds."""
    found = {multiple: [] for multiple in ARGS.steps}
    print(f"    capacity {able:.0f} full handshakes a second at {best:.0f} offered", flush=True)
    for _ in range(ARGS.rounds):
        for multiple, rounds in found.items():
            figures = step(child, port, admin, min(able * multiple, GENERATOR))
            after = capacity(port, best)
            # One that is still busy with the last flood is held against what it could before.
            after = after if after > able / 2 else able
            figures["capacity"] = statistics.mean((able, after))
            figures["share"] = figures["completed"] / min(figures["capacity"], figures["offered"])
            rounds.append(figures)
            able = after
    return found


def tell(multiple, figures):
    back = max(figures["latency_back"], figures["queue_back"])
    print(f"  {multiple:4g} x {figures['offered']:10.0f} {figures['before']:14.2f} {figures['p50']:9.2f} {figures['p99']:8.2f}"
          f" {figures['max']:8.1f} {figures['completed']:8.0f} {figures['completed'] / figures['capacity']:8.0%} {figures['new_p99']:8.1f}"
          f" {figures['refused_p999']:14.1f} {figures['hanging']:8} {back:7.1f} {figures['resident']:4.0f} {figures['core']:8.0f}", flush=True)
    if figures["behind"]:
        print(f"         the generator: {figures['behind']}")


def measure(name, peers_stage):
    port, child, admin = start(name, peers_stage)
    # Peers' verdicts stand in the table; only ours are lines.
    goals = lab.Goals(loud=name in ("sluss", "control"))
    try:
        lab.load(ARGS.sluss, port, 1, established("warm", 0, 1))
        resident = peers.resident_kib(child.pid) / 1024
        print(f"\n{name}, {ARGS.key}: resident {resident:.0f} MiB")
        with peers.kept_busy():
            busy = lab.load(ARGS.sluss, port, BEFORE, established("busy", 0, BEFORE))["busy"]
        print(f"    unloaded on cores kept busy by what gives way: p50 {lab.quantile(busy, 'p50'):.2f}, p99 {lab.quantile(busy, 'p99'):.2f}, "
              f"at most {lab.quantile(busy, 'max'):.1f} ms")
        found = steps(child, port, admin, *find_capacity(port))
        print(f"    median of {ARGS.rounds}, the worst of what hangs and of memory")
        print("    step  offered/s   unloaded p99   est p50      p99      max   good/s  of cap.  new p99  refused p99.9  hanging  back s  MiB  core us")
        unloaded = statistics.median(figures["before"] for rounds in found.values() for figures in rounds)
        middle = {multiple: over_rounds(rounds) for multiple, rounds in found.items()}
        for multiple, figures in middle.items():
            tell(multiple, figures)
        for multiple, figures in middle.items():
            judge(goals, f"{name} {multiple:g} x", figures, unloaded, lab.quantile(busy, "p99"))
        goals.at_most(f"{name}: resident at most", max(figures["resident"] for figures in middle.values()), RESIDENT, "MiB")
        # Given back when there is something to do again.
        lab.load(ARGS.sluss, port, CALM, established("calm", 0, CALM))
        goals.at_most(f"{name}: resident afterwards", peers.resident_kib(child.pid) / 1024, resident + LEFT, "MiB")
        if admin:
            counts = {key: value for key, value in lab.scrape(admin).items() if key.startswith("sluss_queue_refused_total{queue=\"handshake\"") and value}
            print(f"  refused: {counts or 'none'}")
        return {"busy": lab.quantile(busy, "p99"), "unloaded": unloaded, "rounds": found, "steps": middle, "failed": goals.failed}
    finally:
        peers.stop(child)


def main():
    print(peers.stalls(), flush=True)
    names = ["sluss"] if ARGS.quick else ARGS.only or ["sluss", "control", *(name for name, program in PEERS.items() if shutil.which(program))]
    results = {}
    with lab.staged("overload", ARGS.key, ARGS.sluss) as peers_stage:
        for name in names:
            results[name] = measure(name, peers_stage)
    if ARGS.json:
        with open(ARGS.json, "w") as file:
            json.dump(results, file, indent=1)
    print()
    for name, result in results.items():
        if result["failed"]:
            print(f"{name} misses {len(result['failed'])} goals: {', '.join(result['failed'])}")
        else:
            print(f"{name} meets all goals")
    sound = "control" not in results or results["control"]["failed"]
    if not sound:
        print("FAIL  the control meets all goals: these goals prove nothing")
    sys.exit(1 if not sound or results.get("sluss", {"failed": []})["failed"] else 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluss", default=str(lab.ROOT / "target/release/sluss"))
    parser.add_argument("--key", choices=PLATEAUS, default="rsa")
    parser.add_argument("--steps", type=float, nargs="*", default=[1, 2, 5, 10])
    parser.add_argument("--seconds", type=int, default=8, help="of each flood")
    parser.add_argument("--rounds", type=int, default=3, help="of all steps; the medians are judged")
    parser.add_argument("--plateau", type=float, default=1.5, help="seconds of each rate in the search for the capacity")
    parser.add_argument("--patience", type=int, default=1500, help="ms after which a client gives up")
    parser.add_argument("--deadline", type=int, default=250, help="ms that a handshake may wait for in sluss")
    parser.add_argument("--only", nargs="*", choices=["sluss", "control", *PEERS])
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--quick", action="store_true")
    ARGS = parser.parse_args()
    if ARGS.quick:
        ARGS.steps, ARGS.seconds, ARGS.plateau, ARGS.rounds = [2], 3, 0.5, 1
    main()
