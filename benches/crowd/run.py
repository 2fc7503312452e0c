#!/usr/bin/env python3
"""Crowds at the door: 10,000 idle connections, 10,000 of garbage, 2,000 half-said hellos; is a normal visitor harmed?

    cargo build --release
    python3 benches/crowd/run.py                    # --idle, --garbage, --hellos set the sizes

A visitor asks on a connection it keeps, and again and again on a new one; its latency is taken before each crowd
and while the crowd is there. Fails where one of its requests fails, where its median more than doubles (and 5 ms),
or its p99 more than triples (and 50 ms): a crowd that got in the way would cost seconds. One proxy on CPU 0; visitor,
crowd and origin on CPU 1. Needs nginx, openssl, taskset and a hard limit of 12,500 descriptors. Loopback only;
everything started here is ended here, by its process id.
"""
import argparse, json, multiprocessing, os, pathlib, resource, selectors, shutil, signal, socket, ssl, statistics
import sys, tempfile, time, urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "peers"))
import peers

REQUEST = f"GET /1k HTTP/1.1\r\nHost: {peers.HOST}\r\n\r\n".encode()


def context():
    made = ssl.create_default_context()
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    return made


def connect(port, made):
    stream = socket.create_connection(("127.0.0.1", port), 30)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made.wrap_socket(stream, server_hostname=peers.HOST)


def ask(stream):
    stream.sendall(REQUEST)
    data = b""
    while b"\r\n\r\n" not in data or len(data.split(b"\r\n\r\n", 1)[1]) < 1024:
        piece = stream.recv(65536)
        if not piece:
            raise ConnectionError("closed within an answer")
        data += piece
    if not data.startswith(b"HTTP/1.1 200 "):
        raise ConnectionError(data[:60])


class Visitor:
    """Latencies in milliseconds, of requests on one kept connection and of visits on new ones."""

    def __init__(self, port):
        self.port, self.made = port, context()

    def measure(self, seconds, enough=lambda: False):
        kept, visits, failures = [], [], 0
        stream, end = connect(self.port, self.made), time.time() + seconds
        while time.time() < end and not enough():
            for _ in range(10):
                began = time.perf_counter()
                ask(stream)
                kept.append((time.perf_counter() - began) * 1e3)
                time.sleep(0.002)
            began = time.perf_counter()
            try:
                with connect(self.port, self.made) as fresh:
                    ask(fresh)
                visits.append((time.perf_counter() - began) * 1e3)
            except OSError as error:
                failures += 1
                print(f"    a visit failed: {error!r}")
        stream.close()
        return {"kept": kept, "visit": visits, "failures": failures}


def quantiles(values):
    ordered = sorted(values)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


# Each crowd runs in a process of its own: it says over `told` when it is complete, and stays until it hears back.

def idle(port, count, told):
    made, held = context(), []
    for _ in range(count):
        held.append(connect(port, made))
        ask(held[-1])
    told.send(len(held))
    told.recv()
    alive = sum(1 for stream in held if not gone(stream))
    told.send(alive)


def gone(stream):
    stream.setblocking(False)
    try:
        while stream.recv(65536):
            pass  # An answer, or an alert, before the end.
        return True
    except (ssl.SSLWantReadError, BlockingIOError):
        return False
    except OSError:
        return True


def crowd(port, count, told, words):
    """`count` connections as fast as they come about, each saying `words(n)`; all held while they last."""
    held, at_once = [], 256
    for first in range(0, count, at_once):
        for number in range(first, min(first + at_once, count)):
            stream = socket.create_connection(("127.0.0.1", port), 30)
            try:
                stream.sendall(words(number))
            except OSError:
                pass  # Hung up on already.
            held.append(stream)
    told.send(len(held))
    told.recv()
    told.send(sum(1 for stream in held if not gone(stream)))


def garbage(port, count, told):
    kinds = [os.urandom(200), b"\x80\x2e\x01\x00\x02", b"SSH-2.0-scanner\r\n", b"\x16\x03\x01\xff\xff" + os.urandom(600),
             b"\x16\x03\x01\x00\x50\x01\x00\x00\x4c" + os.urandom(76), b"\x00" * 64]
    crowd(port, count, told, lambda number: kinds[number % len(kinds)])


def hellos(port, count, told):
    out = ssl.MemoryBIO()
    hello = context().wrap_bio(ssl.MemoryBIO(), out, server_hostname=peers.HOST)
    try:
        hello.do_handshake()
    except ssl.SSLWantReadError:
        pass
    whole = out.read()
    crowd(port, count, told, lambda _: whole[:len(whole) // 2])


def run(stage, name, work, count, port):
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=work, args=(port, count, theirs), daemon=True)
    visitor = Visitor(port)
    before = visitor.measure(ARGS.seconds)
    process.start()
    arriving = visitor.measure(600, enough=ours.poll)
    came = ours.recv()
    during = visitor.measure(ARGS.seconds)
    resident = peers.resident_kib(stage.pid)
    ours.send("enough")
    left = ours.recv()
    process.join()
    harmed = before["failures"] + arriving["failures"] + during["failures"] > 0
    print(f"{name}: {came} came, {left} still there at the end; the edge holds {resident // 1024} MiB")
    for what in ("kept", "visit"):
        old = quantiles(before[what])
        row = [f"before {old[0]:.2f} / {old[1]:.2f}"]
        for when, figures in (("arriving", arriving), ("there", during)):
            if not figures[what]:
                continue
            new = quantiles(figures[what])
            row.append(f"{when} {new[0]:.2f} / {new[1]:.2f}")
            # While the crowd arrives it takes the visitor's own core as well; only what is lasting is judged.
            if when == "there" and (new[0] > old[0] * 2 + 5 or new[1] > old[1] * 3 + 50):
                harmed = True
        print(f"    {what:5} median / p99 ms: {'; '.join(row)}")
    return harmed


def refused(base):
    admin = open(f"{base}/state/admin").read().strip()
    text = urllib.request.urlopen(f"http://{admin}/metrics", timeout=10).read().decode()
    lines = (line for line in text.splitlines() if line.startswith("sluss_refused_total"))
    counts = {}
    for line in lines:
        reason, value = line.split('reason="')[1].split('"')[0], float(line.rsplit(" ", 1)[1])
        counts[reason] = counts.get(reason, 0) + int(value)
    return {reason: count for reason, count in counts.items() if count}


def main():
    needed = max(ARGS.idle, ARGS.garbage, ARGS.hellos) + 2500
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < needed:
        sys.exit(f"the hard limit of descriptors is {hard}, {needed} are needed: ulimit -Hn, or smaller crowds")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    folder = tempfile.mkdtemp(prefix="sluss-crowd-")
    os.chmod(folder, 0o755)
    peers.certificate(folder, "ecdsa", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    stage = peers.Peers(folder, "ecdsa", ARGS.sluss)
    origin = stage.start_origin()
    conf, harmed = None, False
    original = stage.spawn

    def spawn(name, conf, *rest):
        # An idle connection needs one descriptor; the bound that is found by itself counts two for each.
        return original(name, conf.replace("threads = 1", f"threads = 1\nmax_connections = {needed}"), *rest)

    stage.spawn = spawn
    port, child = stage.sluss()
    os.sched_setaffinity(0, {1})
    try:
        for name, work, count in (("idle", idle, ARGS.idle), ("garbage", garbage, ARGS.garbage), ("half-said hellos", hellos, ARGS.hellos)):
            harmed |= run(child, name, work, count, port)
        print("refused:", json.dumps(refused(f"{folder}/sluss")))
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(40)
        origin.send_signal(signal.SIGTERM)
        origin.wait(10)
        shutil.rmtree(folder, ignore_errors=True)
    print("the visitor is harmed" if harmed else "the visitor is not harmed")
    sys.exit(1 if harmed else 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluss", default=str(HERE.parents[1] / "target/release/sluss"))
    parser.add_argument("--idle", type=int, default=10_000)
    parser.add_argument("--garbage", type=int, default=10_000)
    parser.add_argument("--hellos", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=4)
    ARGS = parser.parse_args()
    main()
