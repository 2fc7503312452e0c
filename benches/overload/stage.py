"""What the benches of this folder share: the edge with sites of its own, one run of `sluss load`, a slow origin,
a look at the edge while it works, and goals that pass or fail.

Everything started here is ended by whoever started it, by its process id; loopback only.
"""
import asyncio, concurrent.futures, contextlib, json, multiprocessing, os, pathlib, random, re, shutil, subprocess, sys, tempfile, threading, time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "peers"))
import peers

# Whoever looks takes nothing from the proxy's CPU.
os.sched_setaffinity(0, {1})

ROOT = HERE.parents[1]
DOMAIN = peers.HOST
# Loopback addresses that a flood comes from: from one, most of the generator's core goes into the kernel's search for a free port.
SOURCES = 64
# What of a visitor's work was turned away at once, and what was left hanging until he gave up.
REFUSED = ("refused_reset", "refused_status", "refused_stream")
# What the controls of handshakes run on: nobody is let go, whoever came first is next, and handshake threads are as urgent as others.
UNBOUNDED = 'handshake_depth = 1000000\nhandshake_deadline = "60s"\nhandshake_order = "arrival"'
UNISOLATED = "handshake_nice = 0"
HANGING = ("connect_timeout", "handshake_timeout", "response_timeout")


class Goals:
    """Lines that begin with PASS or FAIL; `failed` has the names of those that did not hold."""

    def __init__(self, loud=True):
        self.failed, self.loud = [], loud

    def hold(self, name, held, found):
        if not held:
            self.failed.append(name)
        if self.loud:
            print(f"  {'PASS' if held else 'FAIL'}  {name}: {found}", flush=True)

    def at_most(self, name, value, bound, unit):
        # Written so that NaN, nothing measured, fails.
        self.hold(name, value <= bound, f"{value:.4g} of at most {bound:.4g} {unit}".rstrip())

    def at_least(self, name, value, bound, unit):
        self.hold(name, value >= bound, f"{value:.4g} of at least {bound:.4g} {unit}".rstrip())


def certificates(folder):
    """One certificate of each kind, for the domain and all names below it."""
    for name, key in (("ecdsa", ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]), ("p384", ["ec", "-pkeyopt", "ec_paramgen_curve:secp384r1"]),
                      ("rsa", ["rsa:2048"]), ("rsa4096", ["rsa:4096"])):
        subprocess.run(["openssl", "req", "-x509", "-newkey", *key, "-nodes", "-days", "30", "-subj", f"/CN={DOMAIN}",
                        "-addext", f"subjectAltName=DNS:{DOMAIN},DNS:*.{DOMAIN}", "-keyout", f"{folder}/{name}.key",
                        "-out", f"{folder}/{name}.crt"], check=True, stderr=subprocess.DEVNULL)
        both = pathlib.Path(f"{folder}/{name}.crt").read_text() + pathlib.Path(f"{folder}/{name}.key").read_text()
        pathlib.Path(f"{folder}/{name}.pem").write_text(both)
        os.chmod(f"{folder}/{name}.pem", 0o600)


@contextlib.contextmanager
def staged(name, key, program):
    """Certificates and an origin, and at the end neither."""
    folder = tempfile.mkdtemp(prefix=f"sluss-{name}-")
    os.chmod(folder, 0o755)
    certificates(folder)
    stage = peers.Peers(folder, key, program)
    origin = stage.start_origin()
    try:
        yield stage
    finally:
        peers.stop(origin)
        shutil.rmtree(folder, ignore_errors=True)


def edge(stage, sites, queues="", name="edge", runtime=""):
    """Starts sluss with `sites`: name -> the text of its file. Gives port, child and admin address."""
    port, base = peers.free_port(), pathlib.Path(stage.d) / name
    shutil.rmtree(base, ignore_errors=True)
    for sub in ("sites", "certs/all"):
        (base / sub).mkdir(parents=True)
    shutil.copy(f"{stage.d}/{stage.key}.crt", base / "certs/all/fullchain.pem")
    shutil.copy(f"{stage.d}/{stage.key}.key", base / "certs/all/privkey.pem")
    for site, text in sites.items():
        (base / f"sites/{site}.toml").write_text(text)
    conf = f"""[listen]
https = ["127.0.0.1:{port}"]
http = []
admin = "127.0.0.1:0"
[runtime]
threads = 1
{runtime}
state = "{base}/state"
[certificates]
directory = "{base}/certs"
[sites]
directory = "{base}/sites"
[queues]
{queues}
[log]
access = "off"
"""
    child = stage.spawn(name, conf, [stage.program, "run", "-c"], 0, port)
    end_by = time.monotonic() + 10
    while not (base / "state/admin").exists() and time.monotonic() < end_by:
        time.sleep(0.02)
    return port, child, (base / "state/admin").read_text().strip()


def load(binary, port, seconds, *traffics, path="/1k", nice=0):
    """One run of the generator on CPU 1; gives its traffics by name."""
    command = ["nice", "-n", str(nice), "taskset", "-c", "1", binary, "load", f"https://{DOMAIN}:{port}{path}", "--connect", f"127.0.0.1:{port}",
               "--insecure", "--json", "--duration", f"{seconds * 1000:.0f}ms"]
    for traffic in traffics:
        command += ["--traffic", traffic]
    for _ in range(5):
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds * 6 + 60)
        if done.stdout:
            return {lane["name"]: lane for lane in json.loads(done.stdout)["traffics"]}
        # Connections that must stand before the run were refused: the last flood's queue, or a crowded machine.
        time.sleep(1)
    raise RuntimeError(done.stderr[-500:])


def beside(binary, port, seconds, flood, *traffics):
    """The same with a flood from a generator of its own, whose cryptography gives way to the one that measures."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        flooding = pool.submit(load, binary, port, seconds, *flood, nice=peers.GIVES_WAY)
        return {**load(binary, port, seconds, *traffics), **flooding.result()}


def quantile(lane, which, span="total"):
    return lane["spans"].get(span, {}).get(which, float("nan"))


def counted(lane, *outcomes):
    return sum(lane["outcomes"].get(outcome, 0) for outcome in outcomes)


def behind(lanes):
    """Why the generator itself cannot be believed; its lateness where it loads beside others is not among it."""
    return "; ".join(f"{lane['name']}: {why}" for lane in lanes.values() for why in lane["generator"]["behind"])


def scrape(admin):
    text = urllib.request.urlopen(f"http://{admin}/metrics", timeout=10).read().decode()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if line[:1] != "#")}


def overflows():
    """`ListenOverflows` of this network namespace."""
    names, values = [line.split() for line in open("/proc/net/netstat") if line.startswith("TcpExt:")]
    return int(values[names.index("ListenOverflows")])


class Watch(threading.Thread):
    """Looks at the edge four times a second: time, length of its queues, resident memory, waits for its core."""

    EVERY = 0.25

    def __init__(self, child, admin=None):
        super().__init__(daemon=True)
        self.admin, self.samples, self.ending = admin, [], threading.Event()
        # Found once: looking through all processes each time would be felt.
        self.members = peers.tree(child.pid)
        self.overflows = overflows()
        self.start()

    def run(self):
        while not self.ending.wait(self.EVERY):
            sample = {"at": time.monotonic(), "resident": self.resident(), "core": self.core(), "waiting": 0, "kernel": 0.0}
            if self.admin:
                try:
                    metrics = scrape(self.admin)
                except OSError as error:
                    sample["error"] = repr(error)
                    metrics = {}
                sample["waiting"] = metrics.get('sluss_queue_depth{queue="handshake"}', 0)
                limits = {name: value for name, value in metrics.items() if name.startswith("sluss_kernel_accept_queue_limit")}
                sample["kernel"] = max((metrics[name.replace("_limit", "_length")] / limit for name, limit in limits.items()), default=0)
            self.samples.append(sample)

    def resident(self):
        texts = (open(f"/proc/{one}/status").read() for one in self.members)
        return sum(int(re.search(r"VmRSS:\s+(\d+)", text).group(1)) for text in texts) / 1024

    def core(self):
        """Nanoseconds that its threads have waited for a core, and how often they had one; but for threads that are to wait."""
        waited, slices = 0, 0
        for task in (task for one in self.members for task in pathlib.Path(f"/proc/{one}/task").iterdir()):
            try:
                if not (task / "comm").read_text().startswith("sluss-tls-"):
                    _, wait, count = map(int, (task / "schedstat").read_text().split())
                    waited, slices = waited + wait, slices + count
            except OSError:
                pass  # The thread has ended.
        return waited, slices

    def core_wait(self, begin, end):
        """Microseconds that they waited for a core each time, between two instants."""
        seen = [sample["core"] for sample in self.samples if begin <= sample["at"] <= end]
        if len(seen) < 2 or seen[0][1] == seen[-1][1]:
            return float("nan")
        return (seen[-1][0] - seen[0][0]) / (seen[-1][1] - seen[0][1]) / 1000

    def end(self):
        self.ending.set()
        self.join()
        self.overflows = overflows() - self.overflows
        return self

    def most(self, what):
        return max((sample[what] for sample in self.samples), default=float("nan"))


async def serve(port, workers, delay):
    """HTTP/1.1 that does `workers` requests at a time and takes `delay` seconds for each, the rest wait inside it: from half to one and
    a half times that, since times all alike would keep the workers in step, and end for all of them at once."""
    at_work = asyncio.Semaphore(workers)

    async def connection(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if match := re.search(rb"(?i)content-length: *(\d+)", head):
                    await reader.readexactly(int(match.group(1)))
                async with at_work:
                    await asyncio.sleep(delay * random.uniform(0.5, 1.5))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def slow_origin(workers, delay):
    """Starts an endpoint of its own; gives its port and process."""
    port = peers.free_port()

    def work():
        os.sched_setaffinity(0, {1})
        asyncio.run(serve(port, workers, delay))

    process = multiprocessing.Process(target=work, daemon=True)
    process.start()
    peers.wait_for(port)
    return port, process
