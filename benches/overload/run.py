#!/usr/bin/env python3
"""A flood of new handshakes beside established traffic: sluss, nginx and HAProxy in one run.

    cargo build --release
    python3 benches/overload/run.py                       # RSA-2048 at 1, 2, 5 and 10 times the capacity
    python3 benches/overload/run.py --key ecdsa --steps 2 5
    python3 benches/overload/run.py --quick               # one short step for sluss alone: tests this script

The proxy has CPU 0, load and origin CPU 1. For each proxy its own capacity is found first (completed full
handshakes a second when far more are offered), then each step offers a multiple of it, in an open loop, beside
500 requests a second on 16 established connections. Latency counts from when a request was due. The control is
sluss with a queue that holds all and lets nobody go: what a check must be able to find. Needs nginx,
haproxy, openssl and taskset; loopback only; everything started here is ended here, by its process id.
"""
import argparse, json, os, pathlib, shutil, signal, subprocess, sys, tempfile, time, urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "peers"))
import peers

# Between two steps: the goal is that two seconds after a flood everything is as before.
SETTLE = 2


def load(port, seconds, *traffics):
    command = ["taskset", "-c", "1", ARGS.sluss, "load", f"https://{peers.HOST}:{port}/1k", "--connect", f"127.0.0.1:{port}",
               "--insecure", "--json", "--duration", f"{seconds}s"]
    for traffic in traffics:
        command += ["--traffic", traffic]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds * 6 + 60)
    if not done.stdout:
        raise RuntimeError(done.stderr[-500:])
    return json.loads(done.stdout)["traffics"]


def established():
    return "kind=requests,rate=500,connections=16,name=established"


def flood(rate):
    return f"kind=handshakes,rate={int(rate)},timeout={ARGS.patience}ms,group=x25519,name=flood"


def ms(lane, span, quantile):
    return lane["spans"].get(span, {}).get(quantile, float("nan"))


def row(step, lanes, capacity):
    calm, storm = lanes
    outcomes = storm["outcomes"]
    good = outcomes.get("completed", 0) / ARGS.seconds
    rest = ", ".join(f"{name} {count}" for name, count in outcomes.items() if name != "completed")
    return (f"  {step:>9} {ms(calm, 'total', 'p50'):7.2f} {ms(calm, 'total', 'p99'):8.2f} {ms(calm, 'total', 'max'):8.1f}"
            f" {good:9.0f} {good / capacity:7.0%} {ms(storm, 'total', 'p99'):9.1f}   {rest or '-'}")


def metrics(child, folder):
    try:
        admin = open(f"{folder}/sluss/state/admin").read().strip()
        text = urllib.request.urlopen(f"http://{admin}/metrics", timeout=5).read().decode()
    except OSError:
        return ""
    wanted = ("sluss_queue_refused_total{queue=\"handshake\"", "sluss_kernel_listen_overflows_total")
    return "; ".join(line for line in text.splitlines() if line.startswith(wanted) and not line.endswith(" 0"))


def start(name, stage):
    match name:
        case "sluss":
            return stage.sluss(queues=f'request_depth = 4096\nhandshake_deadline = "{ARGS.deadline}ms"')
        case "control":
            return stage.sluss(queues='request_depth = 4096\nhandshake_depth = 1000000\nhandshake_deadline = "60s"')
        case _:
            return getattr(stage, name)()


def measure(name, stage, folder):
    port, child = start(name, stage)
    try:
        load(port, 1, established())
        calm = load(port, ARGS.seconds, established())[0]
        capacity = load(port, ARGS.seconds, flood(ARGS.probe))[0]["outcomes"].get("completed", 0) / ARGS.seconds
        print(f"\n{name}: capacity {capacity:.0f} full handshakes a second")
        print("       step   est p50  est p99  est max   good/s  of cap.  new p99   the others (count)")
        nothing = {"outcomes": {}, "spans": {}}
        print(row("unloaded", (calm, nothing), capacity))
        for step in ARGS.steps:
            time.sleep(SETTLE)
            lanes = load(port, ARGS.seconds, established(), flood(capacity * step))
            print(row(f"{step} x", lanes, capacity), flush=True)
        if name == "sluss" and (counted := metrics(child, folder)):
            print(f"  {counted}")
        time.sleep(SETTLE)
        calm = load(port, 2, established())[0]
        print(f"  after: established p99 {ms(calm, 'total', 'p99'):.2f} ms")
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()


def main():
    folder = tempfile.mkdtemp(prefix="sluss-overload-")
    os.chmod(folder, 0o755)
    peers.certificate(folder, "ecdsa", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    peers.certificate(folder, "rsa", "rsa:2048")
    stage = peers.Peers(folder, ARGS.key, ARGS.sluss)
    origin = stage.start_origin()
    names = ["sluss"] if ARGS.quick else ARGS.only or ["sluss", "control", *filter(shutil.which, ("nginx", "haproxy"))]
    try:
        for name in names:
            measure(name, stage, folder)
    finally:
        origin.send_signal(signal.SIGTERM)
        origin.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluss", default=str(HERE.parents[1] / "target/release/sluss"))
    parser.add_argument("--key", choices=["rsa", "ecdsa"], default="rsa")
    parser.add_argument("--steps", type=float, nargs="*", default=[1, 2, 5, 10])
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--probe", type=int, default=4000, help="offered a second to find the capacity")
    parser.add_argument("--patience", type=int, default=1500, help="ms after which a client gives up")
    parser.add_argument("--deadline", type=int, default=250, help="ms that a handshake may wait for in sluss")
    parser.add_argument("--only", nargs="*", choices=["sluss", "control", "nginx", "haproxy"])
    parser.add_argument("--quick", action="store_true")
    ARGS = parser.parse_args()
    if ARGS.quick:
        ARGS.steps, ARGS.seconds = [2], 2
    main()
