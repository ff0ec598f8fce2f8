"""The page and its questions over HTTP, for this computer alone.

The URLs are a fixed list: no part of one ever names a file. Other sites cannot
ask: `Host` must be this computer, which keeps out foreign names that resolve to
it (DNS rebinding), and `Origin`, if there is one, must be the page's own.
"""

import contextlib
import http.server
import importlib.resources
import json
import socket
import sys
import threading
import time
import urllib.parse
import webbrowser

from keras_glow.cli.demo.directions_file import read_directions
from keras_glow.cli.demo.workshop import Workshop

ADDRESS = "127.0.0.1"
HOSTS = (ADDRESS, "localhost")
MAX_BODY = 10_000_000  # bytes
MAX_WAITING = 16  # questions at once; each may hold a body in memory
TIMEOUT = 20  # seconds for which a client may be silent
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/crop.js": ("crop.js", "text/javascript; charset=utf-8"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; "
    "style-src 'self'; img-src data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
JSON = "application/json"
BYTES = "application/octet-stream"


def serve(load, name, directions=None, port=8000, browser=True, classes=None):
    """Serves the page until Ctrl-C.

    Args:
        load: function that returns the `Glow`. It is called once the port is
            taken, so that a port in use is reported at once.
        name: str, what the page calls the model.
        directions: path of a file for `read_directions`, or None for a page
            without sliders.
        port: int, see `Server`.
        browser: bool, whether to open a browser.
        classes: names of the model's classes, see `Workshop`.
    """
    with Server(port) as server:
        print(f"Loading {name} ...", flush=True)
        model = load()
        attributes = {}
        if directions is not None:
            attributes = read_directions(directions, model.dimensions)
        workshop = Workshop(model, name, attributes, classes)
        print("Compiling: this takes a while ...", flush=True)
        workshop.warm_up()
        server.workshop = workshop
        print(f"{server.url} (Ctrl-C stops it)", flush=True)
        if browser:
            # A browser that runs in the terminal blocks its caller.
            arguments = {"target": webbrowser.open, "args": [server.url]}
            threading.Thread(**arguments, daemon=True).start()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("Stopped.", file=sys.stderr)


class Refused(Exception):
    """A request is not answered: holds the status and the reason."""

    def __init__(self, status, reason):
        super().__init__(reason)
        self.status = status


class Server(http.server.ThreadingHTTPServer):
    """Serves the page on 127.0.0.1, at `url`.

    Args:
        port: int; 0 for any that is free. An OSError says if it is taken.
        workshop: a `Workshop`, or None, to be set before `serve_forever`
            takes the first request.
    """

    daemon_threads = True
    request_queue_size = 128  # connections that wait for a thread

    def __init__(self, port=0, workshop=None):
        try:
            super().__init__((ADDRESS, port), Handler)
        except OSError as error:
            reason = error.strerror or error
            raise OSError(f"Port {port} of {ADDRESS}: {reason}") from None
        self.workshop = workshop
        self.waiting = threading.BoundedSemaphore(MAX_WAITING)
        self.working = threading.Lock()  # one question at a time
        folder = importlib.resources.files(__package__) / "page"
        self.files = {
            path: ((folder / name).read_bytes(), content_type)
            for path, (name, content_type) in FILES.items()
        }
        self.url = f"http://{ADDRESS}:{self.server_port}/"

    def handle_error(self, request, client_address):
        """Ignores errors of clients that went away."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request, for a file of the page or with JSON."""

    timeout = TIMEOUT

    def do_GET(self):
        with self._refusing():
            self._check_origin()
            if self.path == "/api/model":
                answer = self.server.workshop.describe()
                self._send(200, *_json({**answer, "max_body": MAX_BODY}))
            elif self.path in self.server.files:
                self._send(200, *self.server.files[self.path])
            else:
                raise Refused(404, "There is no such page")

    def do_POST(self):
        workshop = self.server.workshop
        questions = {
            "/api/draw": (
                JSON,
                ("seed", "temperature", "label"),
                workshop.draw,
            ),
            # What belongs to the bytes of a file stands after "?", as JSON.
            "/api/look": (BYTES, ("crop", "label"), workshop.inspect),
            "/api/edit": (
                JSON,
                ("a", "b", "labels", "share", "spherical", "strengths"),
                workshop.edit,
            ),
        }
        path, _, query = self.path.partition("?")
        with self._refusing():
            self._check_origin()
            if path not in questions:
                raise Refused(404, "There is no such question")
            content_type, names, answer = questions[path]
            if self.headers.get_content_type() != content_type:
                raise Refused(415, f"The type is expected to be {content_type}")
            if not self.server.waiting.acquire(blocking=False):
                raise Refused(503, "Too many questions at once")
            try:
                body = self._read_body()
                if content_type == JSON:
                    arguments = _parse(body, names)
                else:
                    query = urllib.parse.unquote(query)
                    arguments = body, *_parse(query, names)
                with self.server.working:
                    found = answer(*arguments)
                self._send(200, *_json(found))
            finally:
                self.server.waiting.release()

    def send_error(self, code, message=None, explain=None):
        """Reports in JSON an error that http.server finds, such as a method."""
        self._send(code, *_json({"error": message or f"Error {code}"}))

    def version_string(self):
        return "keras-glow"

    def log_message(self, *args):
        """Logs nothing: the terminal is left to the user."""

    def _check_origin(self):
        host = self.headers.get("Host", "")
        if host.rpartition(":")[0] not in HOSTS and host not in HOSTS:
            raise Refused(403, "The host is expected to be this computer")
        if self.headers.get("Origin", f"http://{host}") != f"http://{host}":
            raise Refused(403, "Other sites may not ask")

    def _read_body(self):
        text = self.headers.get("Content-Length", "")
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise Refused(411, "The length of the body is expected")
        length = int(text)
        if length > MAX_BODY:
            limit = MAX_BODY // 10**6
            raise Refused(413, f"A file is expected to have at most {limit} MB")
        body = self.rfile.read(length)
        if len(body) < length:
            raise Refused(400, "The body ended too early")
        return body

    @contextlib.contextmanager
    def _refusing(self):
        """Tells the client in one line about any error inside."""
        try:
            yield
        except Refused as refused:
            self._send(refused.status, *_json({"error": str(refused)}))
        except OSError:
            raise  # The client went away, or was silent for too long.
        except ValueError as error:
            self._send(400, *_json({"error": " ".join(str(error).split())}))
        except Exception as error:
            # The server survives any error, and keeps its details to itself.
            line = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"keras-glow: error: {line}", file=sys.stderr)
            self._send(500, *_json({"error": "The server failed at this"}))

    def _send(self, status, content, content_type):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        if status >= 400:
            self._drain_request()

    def _drain_request(self):
        """Reads on for a while: closing at once could lose the answer."""
        with contextlib.suppress(OSError):
            self.connection.settimeout(1)
            self.connection.shutdown(socket.SHUT_WR)
            # The limit is in bytes: the size of each part is up to the network.
            left, end = 2 * MAX_BODY, time.monotonic() + TIMEOUT
            while left > 0 and time.monotonic() < end:
                part = self.rfile.read1(2**16)
                if not part:
                    break
                left -= len(part)


def _json(answer):
    return json.dumps(answer, allow_nan=False).encode(), JSON


def _parse(body, names):
    """Returns the values of a JSON object with just these names, in order."""
    try:
        values = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise Refused(400, "The body is expected to be JSON") from None
    if not isinstance(values, dict) or set(values) != set(names):
        raise Refused(400, f"JSON is expected with {', '.join(names)}")
    return [values[name] for name in names]


def _no_number(text):
    raise ValueError(text)  # JSON has no NaN and no Infinity.
