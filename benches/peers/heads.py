#!/usr/bin/env python3
"""Sends malformed heads through sluss, nginx and HAProxy and prints what each makes of them.

    cargo build --release
    python3 benches/peers/heads.py                  # Markdown, as in docs/screening.md
    python3 benches/peers/heads.py --sluss PATH     # another build

The heads stand in heads.txt: what a raw origin sends back, and what a raw client asks. The peers run as
they come and, where they have a switch for it, lenient. Sluss is held to what heads.txt says: everything
that can be mended arrives as 200, with its body byte for byte, every sound field and exactly one finding
of the rule; everything else is refused. Exit code 1 where it is not so. Needs openssl, and the peers that
are to stand in the table. Loopback only; everything started here is ended here, by its process id.
"""
import argparse, collections, json, os, pathlib, re, shutil, signal, socket, ssl, subprocess, sys, tempfile
import threading, time, urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from run import HOST, ROOT, certificate, free_port, wait_for

PATIENCE = 5
CONTENT = {"response": b"hello world", "request": b"hello"}
BEFORE = {"response": b"X-Before: 1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n", "request": b"X-Before: 1\r\nCookie: a=1\r\n"}
AFTER = b"X-After: 2\r\n"
SOUND = {"response": ["x-before: 1", "set-cookie: a=1", "set-cookie: b=2", "x-after: 2"],
         "request": ["x-before: 1", "cookie: a=1", "x-after: 2"]}
MENDED = ("field", "first", "start")

Item = collections.namedtuple("Item", "direction kind rule bytes text")
Answer = collections.namedtuple("Answer", "status start lines content end")


def unescape(text):
    short = {"r": b"\r", "n": b"\n", "t": b"\t", "s": b" ", "0": b"\0", "\\": b"\\"}
    def one(match):
        return bytes([int(match[1][1:], 16)]) if match[1].startswith(b"x") else short[match[1].decode()]
    return re.sub(rb"\\(x[0-9a-f]{2}|.)", one, text.encode())


def items():
    for line in open(pathlib.Path(__file__).with_name("heads.txt")):
        if line.strip() and not line.startswith("#"):
            what, rule, text = line.strip("\n").split(" | ", 2)
            yield Item(*what.split(), rule, unescape(text), text)


def message(item):
    """The item in its place in a sound message."""
    direction, content = item.direction, CONTENT[item.direction]
    start = b"HTTP/1.1 200 OK\r\n" if direction == "response" else b"POST /%d HTTP/1.1\r\n"
    first = b"Connection: close\r\n" if direction == "response" else f"Host: {HOST}\r\n".encode()
    length, fields = b"Content-Length: %d\r\n" % len(content), item.bytes
    if item.kind == "start":
        start, fields = item.bytes, b""
    elif item.kind in ("first", "lead"):
        first, fields = item.bytes + first, b""
    elif item.kind == "framing":
        length = b""
        if b"hunked" in item.bytes:
            content = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
    elif item.kind == "chunks":
        length, content, fields = b"Transfer-Encoding: chunked\r\n", item.bytes, b""
    return start, first + BEFORE[direction] + fields + AFTER + length + b"\r\n" + content


class Reader:
    """Messages as they come, lines and fields untouched."""

    def __init__(self, stream):
        self.stream, self.bytes = stream, b""

    def more(self):
        try:
            piece = self.stream.recv(65536)
        except (socket.timeout, TimeoutError):
            raise EOFError("silent")
        except (OSError, ssl.SSLError):
            raise EOFError("broken")
        if not piece:
            raise EOFError("closed")
        self.bytes += piece

    def until(self, end):
        while end not in self.bytes:
            self.more()
        taken, self.bytes = self.bytes.split(end, 1)
        return taken

    def exactly(self, count):
        while len(self.bytes) < count:
            self.more()
        taken, self.bytes = self.bytes[:count], self.bytes[count:]
        return taken

    def message(self, is_request):
        try:
            head = self.until(b"\r\n\r\n")
        except EOFError as error:
            return Answer(0, "", [], b"", str(error))
        start, *lines = head.decode("latin-1").split("\r\n")
        status = 0 if is_request else int(re.search(r" (\d{3})", start)[1])
        fields = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
        content, end = b"", "whole"
        try:
            if fields.get("transfer-encoding") == "chunked":
                while size := int(self.until(b"\r\n"), 16):
                    content += self.exactly(size)
                    self.until(b"\r\n")
                self.until(b"\r\n")
            elif "content-length" in fields:
                content = self.exactly(int(fields["content-length"]))
            elif not is_request:
                while True:
                    self.more()
        except EOFError as error:
            content += self.bytes
            by_close = "transfer-encoding" not in fields and "content-length" not in fields
            end = "whole" if by_close and str(error) == "closed" else str(error)
        return Answer(status, start, lines, content, end)


def origin(listener, all_items):
    """Answers `/N` with the item, where it is a response; else with the request as it came."""
    def serve(stream):
        stream.settimeout(PATIENCE)
        reader = Reader(stream)
        request = reader.message(True)
        if not request.start:
            return stream.close()
        found = re.match(r"\S+ /(\d+)", request.start)
        item = all_items[int(found[1])] if found else None
        if item and item.direction == "response":
            stream.sendall(b"".join(message(item)))
        else:
            seen = "\r\n".join([request.start, *request.lines]).encode("latin-1") + b"\r\n\r\n" + request.content
            stream.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(seen), seen))
        try:
            # Closed in order, so that nothing is lost to a reset.
            stream.shutdown(socket.SHUT_WR)
            stream.recv(65536)
        except OSError:
            pass
        stream.close()

    while True:
        try:
            stream, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=serve, args=(stream,), daemon=True).start()


def ask(port, item, number):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    tcp = socket.create_connection(("127.0.0.1", port), PATIENCE)
    with context.wrap_socket(tcp, server_hostname=HOST) as stream:
        if item.direction == "response":
            stream.sendall(f"GET /{number} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        else:
            start, rest = message(item)
            stream.sendall(start % number + rest)
        return Reader(stream).message(False)


def arrived(item, answer):
    """The message at its far end: what the client, or through the answer's content the origin, was given."""
    if item.direction == "response" or answer.status != 200:
        return answer
    head, _, content = answer.content.partition(b"\r\n\r\n")
    start, *lines = head.decode("latin-1").split("\r\n")
    return Answer(200, start, lines, content, answer.end)


def lost(item, far):
    lines = [line.lower() for line in far.lines]
    return [field for field in SOUND[item.direction] if field not in lines]


def residue(far, plain):
    """Lines that the sound message did not have."""
    known = collections.Counter(line.split(":")[0].lower() for line in plain.lines)
    left = []
    for line in far.lines:
        name = line.split(":")[0].lower()
        if known[name]:
            known[name] -= 1
        else:
            left.append(line)
    return "\r\n".join(left)


def code(text):
    shown = text.encode("latin-1").decode("latin-1").encode("unicode_escape").decode().replace("|", "\\|")
    return f"`{shown}`"


def told(item, far, plain):
    """One cell of the table."""
    if far.status != 200:
        return str(far.status) if far.status else {"silent": f"no answer in {PATIENCE} s"}.get(far.end, "closed, no answer")
    notes = []
    if item.kind == "start":
        notes.append(code(far.start))
    elif item.kind not in ("framing", "chunks"):
        left = residue(far, plain)
        sent = item.bytes.decode("latin-1").rstrip("\r\n")
        as_sent = "as it is" if item.bytes.endswith(b"\r\n") else "with CR LF"
        notes.append("dropped" if not left else as_sent if left.lower() == sent.lower() else code(left))
    if far.end != "whole":
        notes.append(f"content cut after {len(far.content)} bytes")
    elif far.content != CONTENT[item.direction]:
        notes.append(f"content {code(far.content.decode('latin-1'))}" if far.content else "no content")
    elif item.kind in ("framing", "chunks"):
        notes.append("taken as sound")
    notes += [f"**{field.split(':')[0]} lost**" for field in lost(item, far)]
    return "200, " + ", ".join(notes)


class Proxy:
    def __init__(self, folder, name, command, conf, port):
        path = f"{folder}/{name.replace(' ', '-')}.conf"
        pathlib.Path(path).write_text(conf)
        self.name, self.port, self.told = name, port, path + ".out"
        out = open(self.told, "w")
        self.child = subprocess.Popen([*command, path], stdout=out, stderr=out)
        wait_for(port)

    def end(self):
        self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(15)
        except subprocess.TimeoutExpired:
            self.child.kill()


def nginx(folder, upstream, name, more=""):
    port = free_port()
    conf = f"""daemon off; worker_processes 1; pid {folder}/{port}.pid; error_log {folder}/{port}.log crit;
events {{ }}
http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; {more}
  ssl_certificate {folder}/ecdsa.crt; ssl_certificate_key {folder}/ecdsa.key;
  server {{ listen 127.0.0.1:{port} ssl; server_name {HOST};
    location / {{ proxy_http_version 1.1; proxy_set_header Host $host; proxy_pass http://127.0.0.1:{upstream}; }} }} }}
"""
    return Proxy(folder, name, ["nginx", "-p", folder, "-e", f"{folder}/{port}.log", "-c"], conf, port)


def haproxy(folder, upstream, name, more=("", "")):
    port = free_port()
    conf = f"""defaults
  mode http
  timeout connect 2s
  timeout client 30s
  timeout server 30s
frontend f
  bind 127.0.0.1:{port} ssl crt {folder}/ecdsa.pem
  {more[0]}
  default_backend o
backend o
  {more[1]}
  server s 127.0.0.1:{upstream}
"""
    return Proxy(folder, name, ["haproxy", "-f"], conf, port)


class Sluss(Proxy):
    def __init__(self, folder, upstream):
        port, self.admin = free_port(), free_port()
        for sub in ("sites", f"certs/{HOST}"):
            os.makedirs(f"{folder}/{sub}", exist_ok=True)
        shutil.copy(f"{folder}/ecdsa.crt", f"{folder}/certs/{HOST}/fullchain.pem")
        shutil.copy(f"{folder}/ecdsa.key", f"{folder}/certs/{HOST}/privkey.pem")
        pathlib.Path(f"{folder}/sites/bench.toml").write_text(
            f'hosts = ["{HOST}"]\nupstreams = ["http://127.0.0.1:{upstream}"]\n')
        conf = f"""[listen]
https = ["127.0.0.1:{port}"]
http = []
admin = "127.0.0.1:{self.admin}"
[runtime]
threads = 1
state = "{folder}/state"
[log]
access = "off"
"""
        super().__init__(folder, "sluss", [ARGS.sluss, "run", "-c"], conf, port)

    def findings(self):
        """Counts by direction and rule."""
        counts = collections.Counter()
        for row in json.load(urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/api/findings", timeout=PATIENCE)):
            counts[row["direction"], row["rule"]] += row["count"]
        return counts


def findings_since(sluss, before):
    """What was found since, once something was."""
    end = time.time() + PATIENCE
    while not (found := sluss.findings() - before) and time.time() < end:
        time.sleep(0.02)
    return found


def faults(item, far, found):
    """What sluss did otherwise than heads.txt says."""
    wrong = []
    if item.kind in MENDED:
        if far.status != 200 or far.end != "whole" or far.content != CONTENT[item.direction]:
            wrong.append("it is not delivered whole")
        wrong += [f"{field} is lost" for field in lost(item, far)]
        if found != {(item.direction, item.rule): 1}:
            wrong.append(f"not one finding of the rule: {dict(found)}")
        return wrong
    if (item.direction, item.rule) not in found:
        wrong.append(f"not found under the rule: {dict(found)}")
    cut = item.kind == "chunks" and item.direction == "response" and far.end != "whole"
    if far.status != {"response": 502, "request": 400}[item.direction] and not cut:
        wrong.append("it is not refused")
    return wrong


def version(*command):
    if not shutil.which(command[0]):
        return None
    run = subprocess.run(command, capture_output=True, text=True)
    return re.search(r"\d+\.\d+[.\d]*", run.stdout + run.stderr)[0]


def main():
    all_items = list(items())
    plain_items = {direction: Item(direction, "field", "", b"", "") for direction in ("response", "request")}
    all_items += plain_items.values()
    folder = tempfile.mkdtemp(prefix="sluss-heads-")
    os.chmod(folder, 0o755)
    certificate(folder, "ecdsa", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    threading.Thread(target=origin, args=(listener, all_items), daemon=True).start()
    upstream = listener.getsockname()[1]
    versions = {"sluss": version(ARGS.sluss, "--version"), "nginx": version("nginx", "-v"), "HAProxy": version("haproxy", "-v")}
    proxies, wrong = [], []
    try:
        sluss = Sluss(folder, upstream)
        proxies.append(sluss)
        if versions["nginx"]:
            proxies.append(nginx(folder, upstream, "nginx"))
            proxies.append(nginx(folder, upstream, "nginx lenient", "ignore_invalid_headers off; underscores_in_headers on;"))
        if versions["HAProxy"]:
            proxies.append(haproxy(folder, upstream, "HAProxy"))
            lenient = ("option accept-invalid-http-request", "option accept-invalid-http-response")
            proxies.append(haproxy(folder, upstream, "HAProxy lenient", lenient))
        print(", ".join(f"{name} {number}" for name, number in versions.items() if number))
        for direction, what in (("response", "the site answers"), ("request", "the client sends")):
            # nginx has no switch for what comes from a site.
            asked = [proxy for proxy in proxies if (direction, proxy.name) != ("response", "nginx lenient")]
            sound, plain = plain_items[direction], {}
            for proxy in asked:
                plain[proxy.name] = arrived(sound, ask(proxy.port, sound, all_items.index(sound)))
                if plain[proxy.name].status != 200:
                    sys.exit(f"{proxy.name} does not deliver the sound message: {plain[proxy.name]}")
            print(f"\n| {what} | " + " | ".join(proxy.name for proxy in asked) + " |")
            print("|---" * (len(asked) + 1) + "|")
            for number, item in enumerate(all_items):
                if item.direction != direction or not item.text:
                    continue
                cells = []
                for proxy in asked:
                    before = sluss.findings() if proxy is sluss else None
                    far = arrived(item, ask(proxy.port, item, number))
                    if proxy is sluss:
                        problems = faults(item, far, findings_since(sluss, before))
                        wrong += [f"{item.direction} {item.text}: {problem}" for problem in problems]
                    cells.append(told(item, far, plain[proxy.name]))
                shown = item.text if item.kind == "chunks" else item.text.removesuffix("\\r\\n")
                print(f"| `{shown}` | " + " | ".join(cells) + " |", flush=True)
    finally:
        for proxy in proxies:
            proxy.end()
        listener.close()
        shutil.rmtree(folder, ignore_errors=True)
    for line in wrong:
        print(f"sluss: {line}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluss", default=str(ROOT / "target/release/sluss"))
    ARGS = parser.parse_args()
    main()
