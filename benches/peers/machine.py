"""What the measurements ask of the machine: ports, processes, their CPU time and memory, certificates, its name."""
import contextlib, os, pathlib, platform, re, signal, socket, ssl, subprocess, sys, threading, time

HOST = "bench.localhost"
TICK = os.sysconf("SC_CLK_TCK")
ROOT = pathlib.Path(__file__).resolve().parents[2]
CLIENT = ssl.create_default_context()
CLIENT.check_hostname, CLIENT.verify_mode = False, ssl.CERT_NONE


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class TookTooLong(RuntimeError):
    """No OSError, which who tries again takes for a failed try."""


@contextlib.contextmanager
def bounded(seconds, what):
    """Ends what is done within after so long, wherever it waits; for the main thread."""
    def over(*_):
        raise TookTooLong(f"{what}: not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# Does nothing but look at the clock, and counts what passes between two looks.
SPIN = """
import time
now = time.perf_counter_ns
begun = last = now(); lost = longest = 0
while last - begun < {seconds} * 1e9:
    at = now(); gap = at - last; last = at
    if gap > 50_000: lost += gap; longest = max(longest, gap)
print(lost / (last - begun), longest / 1e6)
"""


def stalls(seconds=2):
    """What of their time the two cores give to nobody here, and for how long at once: p99s within the longest gap say nothing."""
    spins = [subprocess.Popen(["taskset", "-c", str(cpu), sys.executable, "-c", SPIN.format(seconds=seconds)], stdout=subprocess.PIPE, text=True)
             for cpu in (0, 1)]
    told = [spin.communicate()[0].split() for spin in spins]
    return "machine, busy with nothing: " + "; ".join(f"core {cpu} loses {float(lost):.1%}, {float(longest):.1f} ms at once at most"
                                                      for cpu, (lost, longest) in enumerate(told))


# Niceness of a generator of handshakes beside one that measures, on one core: its cryptography gives way.
GIVES_WAY = 19


@contextlib.contextmanager
def kept_busy():
    """Both cores have something to do all the time that gives way to everybody at once (SCHED_IDLE). What latency is then more
    than on idle cores is the machine's doing: a core in use is taken away now and then, one at rest is not."""
    def give_way():
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))

    spins = [subprocess.Popen(["taskset", "-c", str(cpu), sys.executable, "-c", "while True: pass"], preexec_fn=give_way) for cpu in (0, 1)]
    try:
        yield
    finally:
        for spin in spins:
            spin.kill()
            spin.wait()


def tree(pid):
    found = [pid]
    for child in subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split():
        found += tree(int(child))
    return found


def cpu_seconds(members):
    """User and system time of processes, all threads."""
    total = 0
    for one in members:
        try:
            fields = open(f"/proc/{one}/stat").read().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        except OSError:
            pass
    return total / TICK


class Watch:
    """The CPU time of a process and its descendants while something goes on, to be asked for afterwards."""

    def __init__(self, pid):
        self.pid, self.seen, self.over = pid, [], threading.Event()
        self.thread = threading.Thread(target=self.look)

    def look(self):
        while not self.over.wait(0.02):
            self.note()

    def note(self):
        self.seen.append((time.time(), cpu_seconds(self.members)))

    def __enter__(self):
        self.members = tree(self.pid)
        self.note()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        self.members = tree(self.pid)
        self.note()

    def since(self, began):
        """CPU seconds from then on; from the start where `began` is None."""
        before = [cpu for at, cpu in self.seen if began is not None and at <= began]
        return self.seen[-1][1] - (before or [self.seen[0][1]])[-1]


def resident_kib(pid):
    total = 0
    for one in tree(pid):
        text = open(f"/proc/{one}/status").read()
        total += int(re.search(r"VmRSS:\s+(\d+)", text).group(1))
    return total


def share_kib(pid):
    """Resident memory of a process and all its descendants; pages that they share count once."""
    total = 0
    for one in tree(pid):
        try:
            total += int(re.search(r"^Pss:\s+(\d+)", open(f"/proc/{one}/smaps_rollup").read(), re.M).group(1))
        except OSError:
            pass  # It has just ended.
    return total


def wait_for(port, patience=10):
    """Until something listens."""
    end = time.time() + patience
    while time.time() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port} after {patience} s")


def exchange(stream, request, size):
    """One request on a connection that stays; the body is known to have `size` bytes of `x`."""
    stream.sendall(request)
    got = b""
    while len(got) < size or not got.endswith(b"x" * size):
        more = stream.recv(65536)
        if not more:
            raise ConnectionError("closed before the body's end")
        got += more
    return got


def wait_until_served(port, child, host=HOST, path="/1k", size=1024, patience=180):
    """Until a request over TLS is answered with 200."""
    end = time.time() + patience
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    while time.time() < end and child.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), 2) as tcp:
                with CLIENT.wrap_socket(tcp, server_hostname=host) as tls:
                    if exchange(tls, request, size).startswith(b"HTTP/1.1 200 "):
                        return
        except OSError:
            pass
        time.sleep(0.02)
    raise TimeoutError(f"port {port} does not serve https://{host}{path}")


def stop(child, how=signal.SIGTERM):
    """Ends what was started in a session of its own: in order, and whatever is left after 10 s at once."""
    child.send_signal(how)
    try:
        child.wait(10)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # Nothing is left.
    child.wait()


def certificate(folder, name, *key):
    subprocess.run(["openssl", "req", "-x509", "-newkey", *key, "-nodes", "-days", "30", "-subj", f"/CN={HOST}",
                    "-addext", f"subjectAltName=DNS:{HOST}", "-keyout", f"{folder}/{name}.key",
                    "-out", f"{folder}/{name}.crt"], check=True, stderr=subprocess.DEVNULL)
    both = open(f"{folder}/{name}.crt").read() + open(f"{folder}/{name}.key").read()
    open(f"{folder}/{name}.pem", "w").write(both)
    os.chmod(f"{folder}/{name}.pem", 0o600)


def about():
    """The machine in words."""
    cpu = re.search(r"model name\s*:\s*(.*)", open("/proc/cpuinfo").read())
    memory = int(re.search(r"MemTotal:\s+(\d+)", open("/proc/meminfo").read()).group(1)) >> 20
    return f"{os.cpu_count()} CPUs ({cpu.group(1).strip() if cpu else platform.machine()}), {memory} GiB, Linux {platform.release()}"
