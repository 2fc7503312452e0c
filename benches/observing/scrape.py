#!/usr/bin/env python3
"""A scrape of an edge with 50,000 sites: how long it takes, how many series it has, and whether visitors feel it.

    cargo build --release
    python3 benches/observing/scrape.py              # two minutes
    python3 benches/observing/scrape.py --quick      # 500 sites, two short turns: tests this script

Turns of ten seconds without and with a scrape a second, 1,000 requests a second in an open loop on 16 connections to one
of the sites; latency counts from when a request was due. PASS or FAIL, and exit status 1 where one failed: fewer than 2,000
series; a scrape within 100 ms (median); the p99 beside scrapes (median of the turns) within what it is without (the most of
the turns), which is what nobody can see. Edge on CPU 0, load, origin and whoever scrapes on CPU 1. Needs nginx, openssl
and taskset; loopback only; everything started here is ended here, by its process id.
"""
import argparse, pathlib, statistics, sys, threading, time, urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "overload"))
import stage as lab
from stage import peers

SERIES, SCRAPE_MS = 2_000, 100


class Scraper(threading.Thread):
    def __init__(self, admin):
        super().__init__()
        self.admin, self.over, self.took, self.series = admin, threading.Event(), [], 0
        self.start()

    def run(self):
        while not self.over.wait(1):
            began = time.perf_counter()
            text = urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=10).read().decode()
            self.took.append((time.perf_counter() - began) * 1000)
            self.series = sum(not line.startswith("#") for line in text.splitlines())

    def end(self):
        self.over.set()
        self.join()


def p99(port, seconds):
    lanes = lab.load(ARGS.sluss, port, seconds, "kind=requests,rate=1000,connections=16,name=visitors")
    return lab.quantile(lanes["visitors"], "p99")


def measure(stage):
    count, turns, seconds = (500, 2, 2) if ARGS.quick else (50_000, 6, 10)
    hosts = [lab.DOMAIN, *(f"s{at}.example" for at in range(1, count))]
    sites = {f"s{at}": f'hosts = ["{name}"]\nupstreams = ["http://127.0.0.1:{stage.origin}"]\n' for at, name in enumerate(hosts)}
    port, child, admin = lab.edge(stage, sites)
    goals = lab.Goals()
    try:
        p99(port, 2)
        quiet, beside, scrapes = [], [], []
        for _ in range(turns):
            quiet.append(p99(port, seconds))
            scraper = Scraper(admin)
            beside.append(p99(port, seconds))
            scraper.end()
            scrapes += scraper.took
        goals.hold("series", scraper.series < SERIES, f"{scraper.series} of fewer than {SERIES:,}, {count:,} sites")
        goals.at_most("a scrape, median", statistics.median(scrapes), SCRAPE_MS, "ms")
        goals.at_most(f"p99 of visitors beside scrapes, median of {turns} turns (without: median {statistics.median(quiet):.2f})",
                      statistics.median(beside), max(quiet), "ms")
        return not goals.failed
    finally:
        peers.stop(child)


def main():
    print(peers.stalls(), flush=True)
    with lab.staged("scrape", "ecdsa", ARGS.sluss) as stage:
        sys.exit(0 if measure(stage) else 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluss", default=str(lab.ROOT / "target/release/sluss"))
    parser.add_argument("--quick", action="store_true")
    ARGS = parser.parse_args()
    main()
