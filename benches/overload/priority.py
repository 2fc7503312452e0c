#!/usr/bin/env python3
"""A site at its limit: are `critical` requests felt to wait while `bulk` is shed? With goals that pass or fail.

    cargo build --release
    python3 benches/overload/priority.py                  # half a minute
    python3 benches/overload/priority.py --quick          # tests this script

The site's server does 8 requests at a time, 12.5 to 37.5 ms each: 320 a second. First 40 critical ones a second alone; then, beside
them, 40 normal and 1,200 bulk ones. Goals: critical p99 at most 1.5 times the unloaded one and none lost; bulk is shed, and
still gets what the others leave, nine tenths of it. Run twice: with the limit that the operator knows (`in_flight = 8`), and
with the one that the edge finds. The control has the same requests without `priority`: it must miss a goal. Exit status 1
where sluss misses one, or the control none.

sluss has CPU 0, load and server CPU 1. Needs nginx (for the harness), openssl and taskset. Loopback only; everything started
here is ended here, by its process id.
"""
import argparse, os, shutil, sys, tempfile

import stage as lab
from stage import peers

WORKERS, DELAY = 8, 0.025
BEFORE = 6
# A queue whose deadline is the patience of those in it.
QUEUES = 'request_depth = 256\nrequest_deadline = "2s"'
RULES = 'priority = [ { path = "/checkout/*", class = "critical" }, { path = "/export/*", class = "bulk" } ]\n'


def measure(name, stage, in_flight, rules, goals):
    slow, origin = lab.slow_origin(WORKERS, DELAY)
    file = f'hosts = ["{lab.DOMAIN}"]\nupstreams = ["http://127.0.0.1:{slow}"]\n{rules}limits = {{ in_flight = {in_flight} }}\n'
    port, child, _ = lab.edge(stage, {"shop": file}, QUEUES, "edge")
    able = WORKERS / DELAY
    try:
        critical = "kind=requests,rate=40,connections=64,path=/checkout/pay,timeout=5s"
        beside = f"start={BEFORE}s,duration={ARGS.seconds}s"
        # What has come to stand may have to settle: the limit is found, the queue fills.
        lanes = lab.load(ARGS.sluss, port, BEFORE + ARGS.seconds,
                         f"{critical},name=before,start=0s,duration={BEFORE}s", f"{critical},name=critical,{beside}",
                         f"kind=requests,rate=40,connections=64,path=/page,timeout=5s,name=normal,{beside}",
                         f"kind=requests,rate=1200,protocol=h2,connections=16,streams=100,path=/export/all,timeout=5s,name=bulk,{beside}")
    finally:
        peers.stop(child)
        origin.terminate()
    unloaded = lab.quantile(lanes["before"], "p99")
    print(f"\n{name}: unloaded p50 / p99 {lab.quantile(lanes['before'], 'p50'):.1f} / {unloaded:.1f} ms")
    for title in ("critical", "normal", "bulk"):
        lane = lanes[title]
        print(f"    {title:9} {lane['offered']:6} came, {lab.counted(lane, 'completed'):6} served, {lab.counted(lane, *lab.REFUSED):6} refused,"
              f" p50 / p99 of the served {lab.quantile(lane, 'p50'):.1f} / {lab.quantile(lane, 'p99'):.1f} ms")
    if why := lab.behind(lanes):
        print(f"         the generator: {why}")
    served = {title: lab.counted(lanes[title], "completed") / ARGS.seconds for title in ("critical", "normal", "bulk")}
    goals.at_most(f"{name}: critical p99", lab.quantile(lanes["critical"], "p99"), 1.5 * unloaded, "ms")
    goals.hold(f"{name}: critical lost", lanes["critical"]["offered"] == lab.counted(lanes["critical"], "completed"),
               lanes["critical"]["offered"] - lab.counted(lanes["critical"], "completed"))
    goals.hold(f"{name}: bulk shed", lab.counted(lanes["bulk"], *lab.REFUSED) > 0, lab.counted(lanes["bulk"], *lab.REFUSED))
    goals.at_least(f"{name}: served in all, of what the server can", sum(served.values()) / able * 100, 90, "%")


def main():
    print(peers.stalls(), flush=True)
    folder = tempfile.mkdtemp(prefix="sluss-priority-")
    os.chmod(folder, 0o755)
    lab.certificates(folder)
    stage = peers.Peers(folder, "ecdsa", ARGS.sluss)
    goals, control = lab.Goals(), lab.Goals()
    try:
        measure("fixed limit", stage, WORKERS, RULES, goals)
        if not ARGS.quick:
            measure("found limit", stage, 0, RULES, goals)
        measure("control, no classes", stage, WORKERS, "", control)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\nsluss {'misses ' + ', '.join(goals.failed) if goals.failed else 'meets all goals'}")
    if not control.failed:
        print("FAIL  the control meets all goals: these goals prove nothing")
    sys.exit(1 if goals.failed or not control.failed else 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluss", default=str(lab.ROOT / "target/release/sluss"))
    parser.add_argument("--seconds", type=int, default=10, help="of the flood")
    parser.add_argument("--quick", action="store_true")
    ARGS = parser.parse_args()
    if ARGS.quick:
        ARGS.seconds = 3
    main()
