#!/usr/bin/env python3
"""A thousand reloads by SIGHUP under load: requests, new connections and a long download meanwhile.

    cargo build --release
    python3 benches/reload/run.py [--reloads 1000]

Fails where any request failed, the download's bytes differ, or resident memory grew by more than 5 % after the
first ten reloads. Loopback only; everything started here is ended here, by its process id.
"""
import argparse, hashlib, json, os, pathlib, shutil, signal, subprocess, sys, tempfile, threading, time, urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "peers"))
import peers


def generation(base):
    admin = open(f"{base}/state/admin").read().strip()
    status = json.load(urllib.request.urlopen(f"http://{admin}/api/status", timeout=5))
    return status["generation"]


def wait_until_serving(base):
    """The edge listens a moment before it says that it serves."""
    end = time.time() + 10
    while not os.path.exists(f"{base}/state/admin"):
        if time.time() > end:
            sys.exit("the edge does not serve within 10 s")
        time.sleep(0.002)


def reload_once(child, base, before):
    child.send_signal(signal.SIGHUP)
    end = time.time() + 10
    while generation(base) == before:
        if time.time() > end:
            sys.exit("a reload was not applied within 10 s")
        time.sleep(0.002)
    return before + 1


def main():
    folder = tempfile.mkdtemp(prefix="sluss-reload-")
    os.chmod(folder, 0o755)
    peers.certificate(folder, "ecdsa", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    stage = peers.Peers(folder, "ecdsa", ARGS.sluss)
    origin = stage.start_origin()
    port, child = stage.sluss()
    base = f"{folder}/sluss"
    digests = []

    def download():
        url = f"https://{peers.HOST}:{port}/10m"
        command = ["curl", "-sk", "--limit-rate", "1M", "--resolve", f"{peers.HOST}:{port}:127.0.0.1", url]
        digests.append(hashlib.sha256(subprocess.run(command, capture_output=True).stdout).hexdigest())

    try:
        traffics = ["kind=requests,rate=200,connections=16", "kind=handshakes,rate=50,timeout=5s"]
        command = [ARGS.sluss, "load", f"https://{peers.HOST}:{port}/1k", "--connect", f"127.0.0.1:{port}", "--insecure",
                   "--json", "--duration", f"{ARGS.seconds}s"]
        for traffic in traffics:
            command += ["--traffic", traffic]
        results = f"{folder}/load.json"
        loading = subprocess.Popen(command, stdout=open(results, "w"))
        getting = threading.Thread(target=download)
        getting.start()
        wait_until_serving(base)
        at, first, began = generation(base), None, time.time()
        for number in range(ARGS.reloads):
            at = reload_once(child, base, at)
            if number == 9:
                first = peers.resident_kib(child.pid)
        last, took = peers.resident_kib(child.pid), time.time() - began
        loading.wait(ARGS.seconds * 3)
        report = json.load(open(results))
        getting.join()
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(40)
        origin.send_signal(signal.SIGTERM)
        origin.wait(10)
        shutil.rmtree(folder, ignore_errors=True)
    outcomes = {lane["name"]: lane["outcomes"] for lane in report["traffics"]}
    whole = hashlib.sha256(b"x" * (10 << 20)).hexdigest() == digests[0]
    growth = last / first - 1
    print(f"{ARGS.reloads} reloads in {took:.1f} s; outcomes {outcomes}; download whole: {whole}; "
          f"resident {first} KiB after 10, {last} KiB at the end ({growth:+.1%})")
    failed = any(set(o) - {"completed"} for o in outcomes.values()) or not whole or growth > 0.05
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluss", default=str(HERE.parents[1] / "target/release/sluss"))
    parser.add_argument("--reloads", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=30)
    ARGS = parser.parse_args()
    main()
