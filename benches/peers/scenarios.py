"""What is asked of each proxy, and what is counted: a scenario is work that returns its figures."""
import concurrent.futures, datetime, json, re, socket, subprocess, tempfile, typing

from machine import *
from peers import site

# Under way at once: enough to keep a core busy, few enough that nobody waits until a time-out.
HANDSHAKES_AT_ONCE = 32
# Offered a second, more than any of them completes: what is due while all are under way is not sent.
MORE_THAN_ANY = 8000
CALM = 400
IDLE = 2000
# Within it a connection that is to be idle is made and answered once, seconds.
ANSWER = 5
SITES_CONNECTED, SITES_RATE = 1000, 6000
UPLOAD = 1 << 20
WEBSOCKET = ROOT / "target/quick/examples/websocket"


class Done(typing.NamedTuple):
    """How much was done in how many seconds; how long each took, in milliseconds; what there is to say; and when it
    began, where connections or sessions had been made before that."""
    count: float
    seconds: float
    p50: float | None = None
    p99: float | None = None
    p999: float | None = None
    notes: str = ""
    began: float | None = None


def quantile(ordered, share):
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def run_on_cpu_1(command, seconds, nice=0):
    done = subprocess.run(["nice", "-n", str(nice), "taskset", "-c", "1", *command], capture_output=True, text=True, timeout=60 + 5 * seconds)
    # 3: sluss load says that it was late itself, which its report tells as well.
    if done.returncode not in (0, 3) or not done.stdout:
        raise RuntimeError(f"{command[0]}: {(done.stdout + done.stderr)[-500:]}")
    return done.stdout


def h2load(port, path, *args):
    """A closed loop."""
    with tempfile.NamedTemporaryFile("r", prefix="sluss-h2load-") as log:
        text = run_on_cpu_1(["h2load", "--tls13-ciphers=TLS_AES_128_GCM_SHA256", "--groups=X25519", f"--log-file={log.name}",
                             *args, f"https://{HOST}:{port}{path}", f"--connect-to=127.0.0.1:{port}"], 60)
        times = sorted(int(line.rsplit("\t", 1)[1]) / 1000 for line in log)
    done = re.search(r"requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded", text)
    failed = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", text)
    took = re.search(r"finished in ([\d.]+)(us|ms|s)", text)
    if not done or not took or int(done.group(1)) == 0:
        raise RuntimeError(f"h2load: {text[-400:]}")
    seconds = float(took.group(1)) * {"us": 1e-6, "ms": 1e-3, "s": 1}[took.group(2)]
    notes = failed.group(0) if any(map(int, failed.groups())) else ""
    return Done(int(done.group(1)), seconds, *(quantile(times, share) for share in (0.5, 0.99, 0.999)), notes)


def requests(*shape):
    def work(stage, port, seconds):
        return h2load(port, "/1k", *shape, "-D", str(seconds), "--warm-up-time", "0")
    return work


def bodies(stage, port, seconds):
    done = h2load(port, "/10m", "--h1", "-c", "4", "-n", str(40 * seconds))
    return done._replace(count=10 * done.count)


def uploads(stage, port, seconds):
    body = stage.write("upload", "x" * UPLOAD)
    return h2load(port, "/post", "--h1", "-c", "4", "-n", str(400 * seconds), "-d", body)


def load(stage, port, seconds, traffic, *args, nice=0):
    """`sluss load`; for an open loop, latency counts from when each was due."""
    text = run_on_cpu_1([stage.program, "load", f"https://{HOST}:{port}/1k", "--connect", f"127.0.0.1:{port}", "--insecure",
                         "--json", "--duration", f"{seconds}s", *args, "--traffic", traffic], seconds, nice)
    whole = json.loads(text)
    report, began = whole["traffics"][0], datetime.datetime.fromisoformat(whole["began"]).timestamp()
    completed, total = report["outcomes"].get("completed", 0), report["spans"].get("total", {})
    if not completed:
        raise RuntimeError(f"sluss load: {report['outcomes']} {report['notes']}")
    others = {name: count for name, count in report["outcomes"].items() if name not in ("completed", "not_sent")}
    notes = [f"{count} {name}" for name, count in others.items()]
    return Done(completed, seconds, total.get("p50"), total.get("p99"), total.get("p999"), "; ".join(notes), began), report


def handshakes(kind):
    def work(stage, port, seconds):
        return load(stage, port, seconds, f"kind={kind},then=request,rate={MORE_THAN_ANY},arrivals=constant,group=x25519,tls=1.3",
                    "--in-flight", str(HANDSHAKES_AT_ONCE))[0]
    return work


def calm(stage, port, seconds):
    return load(stage, port, seconds, f"kind=handshakes,then=request,rate={CALM},group=x25519,tls=1.3")[0]


def steady(rate):
    """Requests in an open loop; a generator that was late is told of."""
    def work(stage, port, seconds):
        done, report = load(stage, port, seconds, f"kind=requests,rate={rate:.0f},connections=64,tls=1.3")
        behind = ["the generator was late"] if report["generator"]["behind"] else []
        return done._replace(notes="; ".join([done.notes] * bool(done.notes) + behind))
    return work


def visitors(figure):
    """New connections in an open loop beside 500 requests a second on standing ones, from a generator that gives way to the
    one that those come from; p99 of either."""
    def new(rate):
        def work(stage, port, seconds):
            with concurrent.futures.ThreadPoolExecutor() as pool:
                coming = pool.submit(load, stage, port, seconds, f"kind=handshakes,then=request,rate={rate:.0f},group=x25519,tls=1.3", nice=GIVES_WAY)
                standing, _ = load(stage, port, seconds, "kind=requests,rate=500,connections=16,tls=1.3")
                done, report = coming.result()
            behind = ["the generator was late"] if report["generator"]["behind"] else []
            told = done if figure == "new" else done._replace(p50=standing.p50, p99=standing.p99, p999=standing.p999)
            return told._replace(notes="; ".join([done.notes] * bool(done.notes) + behind))
        return work
    return new


def sites_requests(stage, port, seconds):
    """Requests on standing connections, each to a site of its own."""
    names = stage.write("connected", "".join(f"{site(n)}\n" for n in chosen(stage)))
    return load(stage, port, seconds, f"kind=requests,rate={SITES_RATE},connections={SITES_CONNECTED},tls=1.3", "--hosts", names)[0]


def sites_visitors(stage, port, seconds):
    """New connections, each to a site picked from all of them."""
    names = stage.write("visited", "".join(f"{site(n)}\n" for n in range(stage.sites)))
    traffic = f"kind=handshakes,then=request,sources=64,rate={MORE_THAN_ANY},arrivals=constant,group=x25519,tls=1.3"
    return load(stage, port, seconds, traffic, "--hosts", names, "--in-flight", str(HANDSHAKES_AT_ONCE))[0]


def chosen(stage):
    step = max(1, stage.sites // SITES_CONNECTED)
    return range(0, stage.sites, step)


def websocket(size):
    def work(stage, port, seconds):
        text = run_on_cpu_1([str(WEBSOCKET), "load", f"127.0.0.1:{port}", HOST, "64", str(size), str(seconds)], seconds)
        return Done(**json.loads(text))
    return work


def idle(stage, port, child):
    """Resident memory of an idle keep-alive TLS connection after one request, in KiB."""
    request = f"GET /1k HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    held = []

    def open_some(count):
        for _ in range(count):
            tcp = socket.create_connection(("127.0.0.1", port), ANSWER)
            # Else the request waits for 40 ms until a proxy that has nothing to say acknowledges the handshake's end.
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream = CLIENT.wrap_socket(tcp, server_hostname=HOST)
            exchange(stream, request, 1024)
            held.append(stream)

    try:
        open_some(50)
        before = share_kib(child.pid)
        open_some(IDLE)
        return (share_kib(child.pid) - before) / IDLE
    except (OSError, TookTooLong) as error:
        raise RuntimeError(f"connection {len(held) + 1} of {IDLE + 50}: {error or type(error).__name__}") from error
    finally:
        for stream in held:
            stream.close()


class Scenario(typing.NamedTuple):
    """`unit` is what is counted; the figure is CPU time of the proxy by it, where `figure` says nothing else. Where there is
    a `load`, the work is an open loop at 70 % of what each proxy, or the weakest, can do of that scenario."""
    title: str
    unit: str
    work: typing.Callable | None
    key: str = "ecdsa"
    figure: str = "CPU µs"
    origin: str = "files"
    many_sites: bool = False
    load: str | None = None
    shared: bool = False


SCENARIOS = {
    "h1": Scenario("HTTP/1.1 keep-alive, 64 connections, 1 KiB", "request", requests("--h1", "-c", "64")),
    "h2": Scenario("HTTP/2, 16 connections × 32 streams, 1 KiB", "request", requests("-c", "16", "-m", "32")),
    "handshake-ecdsa": Scenario("full handshake (P-256) with one request, 32 at once", "connection", handshakes("handshakes")),
    "handshake-rsa": Scenario("full handshake (RSA-2048) with one request, 32 at once", "connection", handshakes("handshakes"), "rsa"),
    "handshake-calm": Scenario(f"full handshake (P-256) with one request, {CALM} a second", "connection", calm),
    "resumed": Scenario("resumed handshake with one request, 32 at once", "connection", handshakes("resumed")),
    "bodies": Scenario("10 MiB bodies over HTTP/1.1, 4 connections", "MiB", bodies),
    "uploads": Scenario("POST of 1 MiB over HTTP/1.1, 4 connections", "upload", uploads),
    "websocket-100": Scenario("WebSocket echo, 64 connections, 100 bytes", "message", websocket(100), origin="echo"),
    "websocket-4k": Scenario("WebSocket echo, 64 connections, 4 KiB", "message", websocket(4096), origin="echo"),
    "idle": Scenario(f"{IDLE:,} idle TLS connections over HTTP/1.1", "connection", idle, figure="KiB"),
    "sites": Scenario(f"requests to {SITES_CONNECTED:,} of {{sites:,}} sites on a connection each", "request", sites_requests, many_sites=True),
    "sites-new": Scenario("full handshake (P-256) with one request to one of {sites:,} sites", "connection", sites_visitors, many_sites=True),
    "p99-shared": Scenario("requests at 70 % of what the weakest can do, {rate:,} a second for all", "request", steady, figure="p99 ms",
                           load="h1", shared=True),
    "p99-own": Scenario("requests at 70 % of what each can do", "request", steady, figure="p99 ms", load="h1"),
    "p99-new": Scenario("new connections (RSA-2048) with one request at 70 % of what each can do, beside 500 requests a second", "connection",
                        visitors("new"), "rsa", "p99 ms", load="handshake-rsa"),
    "p99-beside": Scenario("the 500 requests a second beside those new connections", "connection", visitors("beside"), "rsa", "p99 ms",
                           load="handshake-rsa"),
}
