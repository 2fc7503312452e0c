#!/usr/bin/env python3
"""The Thursday on which the queues were too small: growth of new TLS visitors, and what everybody waits for.

    cargo build --release
    python3 benches/thursday/run.py                          # four edges at 1, 2, 5 and 10 times their capacity
    python3 benches/thursday/run.py --html thursday.html --svg thursday.svg --seconds 8
    python3 benches/thursday/run.py --queues queues.toml     # figures that `sluss size` has made before
    python3 benches/thursday/run.py --key rsa4096            # slower edges: ten times their capacity is within reach
    python3 benches/thursday/run.py --quick                  # two edges, one short step: tests this script

The edges, one at a time on CPU 0 (load and origin on CPU 1):

    incident   sluss as that day's servers were: a backlog of 128, a queue without end, no deadline
    sized      sluss with the queues.toml of `sluss size`
    nginx, haproxy   from the distribution's packages, a backlog of 4096

For each its capacity is found first: the most new visitors a second (full handshake, one request) whose p99 stays
under 250 ms. Then each step offers a multiple of it in an open loop, beside 500 requests a second on 16
established connections. Visitors wait for up to 10 s. The figure is the time to the first byte: of established
visitors from when the request was due, of new ones from when the generator took them up, whose own lateness stands
beside it. Where that passes 200 ms (its one core cannot begin ten times what a fast edge does), the step is
repeated with less, twice the capacity at least; what is late even so is shown and not judged. Exit code 1 where `incident` does not show waits of seconds, or `sized` does.

Needs nginx, haproxy, openssl and taskset; loopback only; everything started here is ended here, by its process id.
"""
import argparse, html, json, math, os, pathlib, shutil, signal, subprocess, sys, time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "overload"))
import stage as lab
from stage import peers

ESTABLISHED = "kind=requests,rate=500,connections=16,name=established"
# Key of the certificate -> new visitors a second that the search for the capacity begins with.
KEYS = {"rsa": 250, "rsa4096": 30, "ecdsa": 400}
# What a person waits for a page; the kernel's second and third SYN, after 1 s and 3 s, fall within.
PATIENCE_MS = 10_000
# "Waits of seconds".
SECONDS_MS = 2_000
# Each step begins on an empty queue: those who still wait have left by then.
SETTLE = 2
CAPACITY_MS = 250
# What a generator did so late cannot tell how long others waited to less than that.
LATE_MS = 200
INCIDENT = {"listen": "backlog = 128",
            "queues": 'handshake_depth = 1000000\nhandshake_deadline = "1h"\nrequest_depth = 4096'}


def flood(rate, patience=PATIENCE_MS):
    return f"kind=handshakes,then=request,sources={lab.SOURCES},rate={rate:.0f},timeout={patience}ms,group=x25519,name=new"


def capacity(port):
    """Doubles, then halves the gap; one hiccup of the machine does not break a rate."""
    def holds(rate):
        for _ in range(2):
            p99 = lab.load(ARGS.sluss, port, 1, flood(rate, 1000))["new"]["of_all"]["p99"]
            if p99 is not None and p99 < CAPACITY_MS:
                return True
        return False

    held, broke = 0, KEYS[ARGS.key]
    while holds(broke):
        held, broke = broke, broke * 2
    while held and broke / held > 1.1:
        middle = math.sqrt(held * broke)
        held, broke = (middle, broke) if holds(middle) else (held, middle)
    if not held:
        sys.exit(f"not even {KEYS[ARGS.key]} new visitors a second are served within 250 ms: the machine is too busy")
    return held


def step(port, factor, most):
    lanes = lab.load(ARGS.sluss, port, ARGS.seconds, ESTABLISHED, *[flood(factor * most)] * (factor > 0))
    calm, new = lanes["established"], lanes.get("new")
    row = {"established": calm["spans"].get("first_byte", {}), "new": {}, "outcomes": {}, "late": 0}
    if new:
        sent = new["offered"] - new["outcomes"].get("not_sent", 0)
        # Each has a connection of its own and one small answer: from taken up to its end nothing is left out.
        row |= {"new": new["spans"].get("closed_loop", {}), "outcomes": new["outcomes"],
                "offered": sent / ARGS.seconds, "done": new["outcomes"].get("completed", 0) / ARGS.seconds,
                "late": new["generator"]["lateness"]["p99"]}
    return row


def offer(port, factor, most):
    """So many times the capacity, or less where the generator's core cannot; twice is owed."""
    offered = factor
    while True:
        time.sleep(SETTLE)
        row = step(port, offered, most)
        if row["late"] <= LATE_MS or offered <= 2:
            return row | {"factor": factor, "reached": offered}
        offered = max(0.7 * offered, 2)


def measure(start):
    port, child = start()
    try:
        lab.load(ARGS.sluss, port, 1, ESTABLISHED)
        most = capacity(port)
        return {"capacity": most, "rows": [offer(port, factor, most) for factor in (0, *ARGS.steps)]}
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()


def sized(stage, folder):
    """The queues.toml of `sluss size` for this configuration."""
    if ARGS.queues:
        return os.path.abspath(ARGS.queues)
    port, child = stage.sluss()
    child.send_signal(signal.SIGTERM)
    child.wait(40)
    out = f"{folder}/sized.toml"
    command = [ARGS.sluss, "size", "--quick", "-c", f"{folder}/sluss.conf", "--out", out]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        sys.exit("sluss size refused, see above; on a calm machine it does not, or name a file with --queues")
    return out


def text_table(results):
    lines = []
    number = lambda spans, key: f"{spans[key]:.1f}" if key in spans else "-"
    for name, result in results.items():
        lines.append(f"\n{name}: capacity {result['capacity']:.0f} new visitors a second; time to first byte and the generator's"
                     f" lateness (p99), ms")
        lines.append(f"  {'step':>6} {'reached':>8} {'offered/s':>10} {'served/s':>9} {'new p50':>9} {'p99':>9} {'max':>9}"
                     f" {'est. p50':>9} {'p99':>8} {'max':>8} {'late':>7}   the others")
        for row in result["rows"]:
            factor = f"{row['factor']:g} x" if row["factor"] else "none"
            rest = ", ".join(f"{key} {count}" for key, count in row["outcomes"].items() if key != "completed")
            new, old = row["new"], row["established"]
            reached = f"{row['reached']:.1f} x" if row["factor"] else "-"
            lines.append(f"  {factor:>6} {reached:>8} {row.get('offered', 0):10.0f} {row.get('done', 0):9.0f}"
                         f" {number(new, 'p50'):>9} {number(new, 'p99'):>9} {number(new, 'max'):>9}"
                         f" {number(old, 'p50'):>9} {number(old, 'p99'):>8} {number(old, 'max'):>8} {row['late']:7.0f}   {rest or '-'}")
    return "\n".join(lines)


STYLE = """:root { color-scheme: light dark; --text: #59616b; --line: #d5dae0; --ground: #fff; --a: #c0392b; --b: #0a7a4f; --c: #0072b2; --d: #b86e00; }
@media (prefers-color-scheme: dark) { :root { --text: #a3abb5; --line: #363c43; --ground: #1d2125; --a: #ff7b6b; --b: #4fd69c; --c: #56b4e9; --d: #e69f00; } }
svg text { fill: var(--text); font: 11px system-ui, sans-serif; } .ground { fill: var(--ground); } .grid { stroke: var(--line); }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
"""
LOOKS = [("var(--a)", ""), ("var(--b)", ""), ("var(--c)", "6 3"), ("var(--d)", "2 3")]


def figure(title, results, factors, value, top):
    """One plot: a line for each edge over the steps, milliseconds by powers of ten."""
    left, width, height, low, high = 52, 330, 150, -1, 5
    across = lambda at: left + at * width / max(len(factors) - 1, 1)
    up = lambda ms: top + 24 + height * (high - math.log10(min(max(ms, 10 ** low), 10 ** high))) / (high - low)
    out = [f'<text x="8" y="{top + 12}" font-weight="bold">{title}</text>']
    for power in range(low, high + 1):
        label = f"{10 ** power / 1000:g} s" if power >= 3 else f"{10 ** power:g} ms"
        y = up(10 ** power)
        out.append(f'<path class="grid" d="M{left} {y:.1f}h{width}"/><text x="{left - 5}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for at, factor in enumerate(factors):
        label = f"{factor:g} ×" if factor else "none"
        out.append(f'<text x="{across(at):.1f}" y="{top + 24 + height + 15}" text-anchor="middle">{label}</text>')
    for (name, result), (colour, dashes) in zip(results.items(), LOOKS):
        points = [(across(factors.index(row["factor"])), value(row)) for row in result["rows"]]
        path = " ".join(f"{x:.1f},{up(ms):.1f}" for x, ms in points if ms is not None)
        out.append(f'<polyline class="curve" style="stroke:{colour}" stroke-dasharray="{dashes}" points="{path}"/>')
    return "".join(out)


def svg(results):
    factors = [0, *ARGS.steps]
    key = ""
    for at, (name, (colour, dashes)) in enumerate(zip(results, LOOKS)):
        x = 52 + at * 88
        key += (f'<path class="curve" style="stroke:{colour}" stroke-dasharray="{dashes}" d="M{x} 12h22"/>'
                f'<text x="{x + 27}" y="16">{name}</text>')
    new = figure("First byte of new visitors, p99", results, factors, lambda row: row["new"].get("p99"), 24)
    old = figure("First byte of established visitors, p99", results, factors, lambda row: row["established"].get("p99"), 234)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 420 440" width="630" role="img" '
            f'aria-label="Time to first byte by load"><style>{STYLE}</style>'
            f'<rect class="ground" width="420" height="440"/>{key}{new}{old}</svg>')


def page(results, told):
    return ('<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
            'initial-scale=1"><title>Thursday</title><style>body { font: 15px system-ui, sans-serif; margin: 1rem auto; '
            'max-width: 60rem; padding: 0 1rem; background: var(--ground); } svg { max-width: 100%; height: auto; } '
            'pre { overflow-x: auto; } @media (prefers-color-scheme: dark) { body { color: #d7dce2; } }</style></head>'
            f'<body><h1>Thursday</h1>{svg(results)}<pre>{html.escape(told)}</pre></body></html>\n')


def judge(results):
    """What must be seen, in words where it is not."""
    worst, wrong = {}, []
    for name in ("incident", "sized"):
        told = [row for row in results[name]["rows"] if row["reached"] >= 2 and row["late"] <= LATE_MS]
        if not told:
            wrong.append(f"{name}: the generator was late in every step from twice the capacity on: a busy machine?")
        worst[name] = max((row["new"].get("p99", 0) for row in told), default=None)
    if worst["incident"] is not None and worst["incident"] < SECONDS_MS:
        wrong.append(f"incident: new visitors waited {worst['incident']:.0f} ms at worst (p99); expected seconds")
    if worst["sized"] is not None and worst["sized"] >= SECONDS_MS:
        wrong.append(f"sized: new visitors waited {worst['sized']:.0f} ms at worst (p99); expected under {SECONDS_MS} ms")
    return wrong


def main():
    print(peers.stalls(), flush=True)
    results = {}
    with lab.staged("thursday", ARGS.key, ARGS.sluss) as stage:
        queues = sized(stage, stage.d)
        edges = {"incident": lambda: stage.sluss(**INCIDENT),
                 "sized": lambda: stage.sluss(queues=f'file = "{queues}"'),
                 "nginx": stage.nginx, "haproxy": stage.haproxy}
        for name, start in edges.items():
            ours = name in ("incident", "sized")
            if ours or (not ARGS.quick and shutil.which(name)):
                results[name] = measure(start)
                print(text_table({name: results[name]}), flush=True)
    if ARGS.html:
        pathlib.Path(ARGS.html).write_text(page(results, text_table(results)))
    if ARGS.svg:
        pathlib.Path(ARGS.svg).write_text(svg(results) + "\n")
    if ARGS.json:
        json.dump(results, open(ARGS.json, "w"), indent=1)
    wrong = judge(results)
    print("\n" + ("\n".join(wrong) if wrong else "as expected: incident shows waits of seconds, sized does not"))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluss", default=str(HERE.parents[1] / "target/release/sluss"))
    parser.add_argument("--queues", metavar="FILE", help="a queues.toml of `sluss size` for one thread [default: made now]")
    parser.add_argument("--key", choices=KEYS, default="rsa", help="of the certificate; rsa has 2048 bits")
    parser.add_argument("--steps", type=float, nargs="*", default=[1, 2, 5, 10])
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--quick", action="store_true")
    for form in ("html", "svg", "json"):
        parser.add_argument(f"--{form}", metavar="FILE")
    ARGS = parser.parse_args()
    if ARGS.quick:
        ARGS.steps, ARGS.seconds = [5], 3
    main()
