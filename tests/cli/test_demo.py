"""The page of `keras-glow demo`: its server, attacked, and in a real browser.

The browser tests need Chromium and the package `playwright`.
"""

import base64
import concurrent.futures
import http.client
import importlib.util
import io
import json
import pathlib
import re
import shutil
import socket
import threading
import urllib.parse
import webbrowser
import zlib

import numpy as np
import pytest
from helpers import move_weights, random_images
from image_files import FILES, SIZE, Bad, Good, bomb, encoded
from numpy.testing import assert_array_equal
from PIL import Image

import keras_glow
from keras_glow import latent
from keras_glow.cli import demo
from keras_glow.cli import main as cli
from keras_glow.cli.demo import server as server_module
from keras_glow.cli.demo import workshop

SHAPE = (SIZE, SIZE, 3)
JSON, BYTES = "application/json", "application/octet-stream"
FACES = random_images(4, SHAPE, seed=1)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync"),
    *("--no-first-run", "--disable-background-networking"),
    "--disable-component-update",
]
in_a_browser = pytest.mark.skipif(
    not CHROMIUM or not importlib.util.find_spec("playwright"),
    reason="needs Chromium and the package playwright",
)


@pytest.fixture(scope="module")
def model():
    model = keras_glow.Glow(SHAPE, levels=2, depth=1, width=8)
    move_weights(model, 0.1)
    return model


@pytest.fixture(scope="module")
def found():
    rng = np.random.default_rng(0)
    names = ("Smiling", "Blond_Hair")
    return {n: rng.normal(size=SIZE * SIZE * 3).astype("f4") for n in names}


@pytest.fixture(scope="module")
def server(model, found):
    with demo.Server(0, demo.Workshop(model, "small", found)) as server:
        server.workshop.warm_up()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, path, body=None, content_type=JSON, method=None, **headers):
    """Status, headers and content of an answer; of JSON what it holds."""
    if isinstance(body, dict):
        body = json.dumps(body)
    if body is not None:
        headers["Content-Type"] = content_type
    headers = {name.replace("_", "-"): v for name, v in headers.items()}
    method = method or ("GET" if body is None else "POST")
    connection = http.client.HTTPConnection(*server.server_address, timeout=60)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if content and answer.headers["Content-Type"] == JSON:
        content = json.loads(content)
    return answer.status, answer.headers, content


def look(server, content, crop=None, label=None):
    question = urllib.parse.quote(json.dumps({"crop": crop, "label": label}))
    path = f"/api/look?{question}"
    status, _, answer = ask(server, path, content, BYTES)
    return status, answer


def png(image):
    return base64.b64encode(encoded(image)).decode()


def pixels(content):
    """What a PNG file holds, as bytes or in base64 or as a URL of data."""
    if isinstance(content, str):
        content = base64.b64decode(content.rpartition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)))


def refused(answer, status=400):
    """The reason of an answer that refuses, which is one line."""
    got, _, content = answer
    assert got == status, content
    (line,) = content["error"].splitlines()
    assert str(pathlib.Path(keras_glow.__file__).parent) not in line
    return line


def alive(server):
    status, answer = look(server, encoded(FACES[0]))
    return status == 200 and np.array_equal(
        pixels(answer["picture"]["png"]), FACES[0]
    )


DRAW = {"seed": 1, "temperature": 0.7, "label": None}
EDIT = {
    "a": png(FACES[0]),
    "b": png(FACES[1]),
    "labels": None,
    "share": 0,
    "spherical": False,
    "strengths": {},
}


# The server


def test_the_page_comes_with_its_headers(server):
    for path in ("/", "/style.css", "/page.js", "/crop.js", "/api/model"):
        status, headers, content = ask(server, path)
        assert status == 200 and content
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in headers
        assert headers["Server"] == "keras-glow"
    assert content["attributes"] == ["Smiling", "Blond_Hair"]
    assert content["latents"] == [216, 216]


def test_answers_say_what_the_model_says(server, model):
    temperature = [0.4, 1.1]
    question = {"seed": 3, "temperature": temperature, "label": None}
    status, _, answer = ask(server, "/api/draw", question)
    assert status == 200
    drawn = np.stack([pixels(p["png"]) for p in answer["pictures"]])
    expected = model.sample(workshop.SAMPLES, temperature, seed=3)
    assert_array_equal(drawn, expected)
    # Of the first image the noise is that of `bits_per_dim`; of equal images
    # it is the same wherever they stand.
    bits = [picture["bits_per_dim"] for picture in answer["pictures"]]
    assert bits[0] == pytest.approx(model.bits_per_dim(expected, seed=0)[0])
    _, seen = look(server, base64.b64decode(answer["pictures"][5]["png"]))
    assert seen["picture"] == seen["decoded"]
    assert seen["picture"]["bits_per_dim"] == pytest.approx(bits[5], abs=1e-5)
    assert seen["differing"] == 0 and seen["notes"] == []


def test_a_picture_in_colour_becomes_grey_or_has_fewer_bits(monkeypatch):
    model = keras_glow.Glow((8, 8, 1), levels=1, depth=1, width=4, bits=5)
    seen = demo.Workshop(model, "grey").inspect(encoded(FACES[0]), None, None)
    picture = pixels(seen["picture"]["png"])
    assert picture.shape == (8, 8) and not np.any(picture % 8)
    assert_array_equal(pixels(seen["decoded"]["png"]), picture)
    assert seen["differing"] == 0


def test_models_of_another_kind_are_refused():
    wide = keras_glow.Glow((4, 8, 1), levels=1, depth=1, width=2)
    with pytest.raises(ValueError, match="square"):
        demo.Workshop(wide, "wide")


@pytest.fixture(scope="module")
def digits():
    """A small model with classes."""
    model = keras_glow.Glow(
        (SIZE, SIZE, 1), levels=1, depth=1, width=4, num_classes=3
    )
    move_weights(model, 0.3)
    return model


def test_a_model_with_classes(digits):
    work = demo.Workshop(digits, "digits", {}, ["one", "two", "three"])
    assert work.describe()["classes"] == ["one", "two", "three"]
    in_turn = work.draw(3, 0.7, None)["pictures"]
    assert [p["label"] for p in in_turn] == [0, 1, 2] * 4
    drawn = np.stack([pixels(p["png"]) for p in in_turn])[..., None]
    expected = digits.sample(12, 0.7, 3, np.arange(12) % 3)
    assert_array_equal(drawn, expected)
    twos = work.draw(3, 0.7, 1)["pictures"]
    assert {p["label"] for p in twos} == {1}
    assert twos[1] == in_turn[1] and twos[0] != in_turn[0]
    content = base64.b64decode(twos[0]["png"])
    seen = work.inspect(content, None, 1)
    assert seen["differing"] == 0
    assert seen["picture"]["bits_per_dim"] == pytest.approx(
        twos[0]["bits_per_dim"], abs=1e-5
    )
    other = work.inspect(content, None, 2)["picture"]["bits_per_dim"]
    assert other != pytest.approx(twos[0]["bits_per_dim"], abs=1e-5)
    a, b = twos[0]["png"], in_turn[2]["png"]
    edited = work.edit(a, b, [1, 2, 1], 0, False, {})
    assert edited["picture"]["png"] == a and edited["differing"][0] == 0
    edited = work.edit(a, b, [1, 2, 0], 0, False, {})
    z = digits.encode(pixels(a)[None, ..., None], [1])
    (expected,) = digits.decode(z, [0])
    assert_array_equal(pixels(edited["picture"]["png"]), expected[..., 0])
    assert demo.Workshop(digits, "digits").classes == ["0", "1", "2"]
    for wrong in (None, -1, 3, "1", [1], 1.5, 10**400):
        questions = [
            (work.inspect, (content, None, wrong)),
            (work.edit, (a, b, [0, 0, wrong], 0, False, {})),
            (work.draw, (3, 0.7, wrong)),
        ]
        for answer, arguments in questions[: 2 if wrong is None else 3]:
            with pytest.raises(ValueError, match="labels"):
                answer(*arguments)
    with pytest.raises(ValueError, match="3 names"):
        demo.Workshop(digits, "digits", {}, ["one"])


def test_what_is_taken_of_an_upload(server):
    picture = random_images(1, (30, 50, 3), seed=4)[0]
    for name in ("png", "jpeg"):
        content = encoded(picture, name)
        upright = np.asarray(Image.open(io.BytesIO(content)))
        status, seen = look(server, content)
        assert status == 200
        whole = seen["whole"]
        assert (whole["width"], whole["height"]) == (50, 30)
        assert_array_equal(pixels(whole["png"]), upright)
        for left, top, side in (
            (38, 0, 12),
            (0, 18, 12),
            (5, 3, 24),
            (0, 0, 6),
        ):
            square = upright[top : top + side, left : left + side]
            status, seen = look(server, content, [left, top, side])
            assert status == 200 and seen["whole"] is None
            taken = pixels(seen["picture"]["png"])
            fitted = Image.fromarray(square).resize(
                (SIZE, SIZE), Image.Resampling.LANCZOS
            )
            assert_array_equal(taken, np.asarray(fitted))
            assert bool(seen["notes"]) == (side < SIZE)
        for crop in (
            *([39, 0, 12], [0, 19, 12], [-1, 0, 5], [0, 0, 31], [0, 0, 0]),
            *([0, 0, -3], [0, 0], [0, 0, 5.5], [0, 0, True], "0,0,5", 5, {}),
            [0, 0, 10**400],
        ):
            status, answer = look(server, content, crop)
            assert refused((status, None, answer)), crop
    assert look(server, encoded(FACES[0]))[1]["whole"] is None
    assert refused(ask(server, "/api/look", encoded(FACES[0]), BYTES))


def resident():
    """MB of memory, of Linux."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return 0
    return int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1]) / 1024


def text_bomb():
    """A PNG file whose comment would be 500 MB."""
    squeeze = zlib.compressobj(9)
    text = b"".join(squeeze.compress(bytes(10**7)) for _ in range(50))
    text = b"zTXtcomment\0\0" + text + squeeze.flush()
    length = (len(text) - 4).to_bytes(4)
    chunk = length + text + zlib.crc32(text).to_bytes(4)
    content = encoded(FACES[0])
    return content[:33] + chunk + content[33:]


HOSTILE = {
    **{
        name: content
        for name, content, outcome in FILES
        if isinstance(outcome, Bad) and "smaller" not in outcome.reason
    },
    "20000x20000.png": bomb(20000, 20000),
    "over_16_million.png": bomb(4001, 4000),
    "comment.png": text_bomb(),
    "picture.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>',
    "entities.svg": b'<!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    b"<svg>&x;</svg>",
    "polyglot.gif": b"GIF89a/*" + bytes(20) + b"*/=1;alert(1)",
    "nulls.png": bytes(1000),
    "pdf.png": b"%PDF-1.7\n" + bytes(100),
    "zip.png": b"PK\3\4" + bytes(100),
    "page.html": b"<script>alert(1)</script>",
    "passwd": b"../../etc/passwd",
}


def test_hostile_uploads(server, record_property):
    assert len(HOSTILE) >= 30
    before = resident()
    for name, content in HOSTILE.items():
        status, answer = look(server, content)
        assert status == 400, (name, answer)
        assert refused((status, None, answer))
        assert ask(server, "/api/model")[0] == 200
        # The same where the page gives a face back.
        image = base64.b64encode(content).decode()
        assert "`a`" in refused(ask(server, "/api/edit", {**EDIT, "a": image}))
    assert alive(server)
    growth = resident() - before
    assert growth < 100
    record_property(
        "hostile uploads to the demo refused, by a server that lives",
        f"{len(HOSTILE)} of {len(HOSTILE)}",
    )
    record_property(
        "memory that the demo grew by meanwhile (MB)", f"{max(growth, 0):.0f}"
    )


def test_files_of_many_kinds_are_taken(server):
    names = ("cmyk.jpg", "16_bits.png", "rgba.png", "exif_6.png", "pages.tif")
    for name, content, outcome in FILES:
        if name in names:
            status, answer = look(server, content)
            assert status == 200 and isinstance(outcome, Good)
            seen = pixels(answer["picture"]["png"]).astype(int)
            assert np.abs(seen - outcome.pixels).max() <= outcome.tolerance
            assert answer["differing"] == 0
            assert (outcome.note or "") in " ".join(answer["notes"])


NUMBERS = [
    ("/api/draw", "seed", ("1", 1.5, -1, 2**32, None, True, [], 10**5000)),
    (
        "/api/draw",
        "temperature",
        (-0.1, 1.6, 1e999, "1", None, [1], [1, 9], {}),
    ),
    ("/api/draw", "label", (0, "0", True, [0], {}, 10**5000)),
    ("/api/edit", "labels", (0, [0, 0, 0], {}, "000")),
    ("/api/edit", "share", (-0.01, 1.01, 1e999, "0", None, True, [0])),
    ("/api/edit", "spherical", (0, "true", None, [])),
    (
        "/api/edit",
        "strengths",
        (None, [], 1, {"Smiling": 3.1}, {"Smiling": "1"}, {"Smiling": 1e999}),
    ),
    ("/api/edit", "a", (None, 1, "", "%%", "AAAA", "é", [png(FACES[0])])),
    ("/api/edit", "b", (png(FACES[0][:4]), png(FACES[0][..., 0][:6]), {})),
]


def text(value):
    """JSON, of numbers beyond those of Python too."""
    if isinstance(value, int) and value > 2**64:
        return "1" + "0" * 5000
    return json.dumps(value).replace("Infinity", "1e999")


def test_values_out_of_range_are_named(server):
    for path, name, values in NUMBERS:
        good = DRAW if "draw" in path else EDIT
        for value in values:
            body = {**{k: text(v) for k, v in good.items()}, name: text(value)}
            body = ", ".join(f'"{k}": {v}' for k, v in body.items())
            line = refused(ask(server, path, f"{{{body}}}".encode()))
            assert name in line or "Smiling" in line or "JSON" in line, value
    unknown = {**EDIT, "strengths": {"__class__": 1}}
    assert "Smiling, Blond_Hair" in refused(ask(server, "/api/edit", unknown))
    assert alive(server)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no JSON",
        b"\xff\xfe\x00",
        b"[]",
        b"{}",
        b"null",
        b'{"seed": NaN, "temperature": 0.7, "label": null}',
        b'{"seed": 1, "temperature": Infinity, "label": null}',
        b'{"seed": 1}',
        b'{"seed": 1, "temperature": 1, "label": null, "model": "/etc/passwd"}',
        b"[" * 200_000,
        b'{"seed":' * 100_000,
    ],
    ids=lambda body: body[:20].decode(errors="replace"),
)
def test_bodies_that_are_no_question(server, body):
    assert "JSON" in refused(ask(server, "/api/draw", body))
    assert ask(server, "/api/model")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/....//....//etc/passwd",
        "/page/../../cli.py",
        "//etc/passwd",
        "/etc/passwd%00.css",
        "/..\\..\\windows\\win.ini",
        "/file=/etc/passwd",
        "/style.css/../page.js",
        "/server.py",
        "/?x=/etc/passwd",
        "http://127.0.0.1/style.css",
    ],
)
def test_no_path_leads_to_a_file(server, path):
    assert refused(ask(server, path), 404)


def test_only_this_computer_and_this_page_may_ask(server):
    draw = "/api/draw", DRAW
    port = server.server_port
    for host in ("evil.example", f"evil.example:{port}", "", "127.0.0.1.evil"):
        assert refused(ask(server, "/", Host=host), 403)
        assert refused(ask(server, *draw, Host=host), 403)
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        assert refused(ask(server, *draw, Origin=origin), 403)
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "localhost:9"):
        mine = {"Host": host, "Origin": f"http://{host}"}
        assert ask(server, *draw, **mine)[0] == 200
    # A form of another site can send none of the types that are taken.
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        assert refused(ask(server, *draw, content_type=kind), 415)
    assert refused(ask(server, "/api/look", b"x", "image/png"), 415)
    # Nothing but the loopback address is listened at.
    assert server.server_address[0] == "127.0.0.1"
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", port), timeout=5)


def test_other_methods_and_lengths(server):
    for method in ("PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "BREW"):
        assert ask(server, "/", method=method)[0] == 501
    assert refused(ask(server, "/api/other", {}), 404)
    assert refused(ask(server, "/", {}), 404)
    for length in ("-1", "1e3", "x", "9" * 30):
        answer = ask(server, "/api/draw", {}, Content_Length=length)
        assert refused(answer, 411)
    head = b"POST /api/look HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
    head += BYTES.encode() + b"\r\nContent-Length: 1000\r\n\r\nshort"
    with socket.create_connection(server.server_address, timeout=30) as client:
        client.sendall(head)
        client.shutdown(socket.SHUT_WR)
        assert b" 400 " in client.recv(1000).splitlines()[0]
    for noise in (b"\x16\x03\x01\x02\x00", b"GET / " + b"a" * 70_000, b"\r\n"):
        with socket.create_connection(server.server_address) as client:
            client.sendall(noise + b"\r\n\r\n")
    assert alive(server)


def test_too_large_an_upload_is_refused_however_it_arrives(model):
    with demo.Server(0, demo.Workshop(model, "small", {})) as server:
        # Small buffers, which the connections inherit: many small pieces.
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            answer = ask(server, "/api/look", bytes(11_000_000), BYTES)
            assert "10 MB" in refused(answer, 413)
        finally:
            server.shutdown()
            thread.join()


def test_a_silent_client_is_left_alone(server, monkeypatch):
    monkeypatch.setattr(server_module.Handler, "timeout", 0.2)
    with socket.create_connection(server.server_address, timeout=30) as client:
        client.sendall(b"POST /api/look HTTP/1.1\r\nHost: localhost\r\n")
        assert client.recv(1000) == b""


def test_many_at_once(server, record_property):
    def draw(seed):
        return ask(server, "/api/draw", {**DRAW, "seed": seed})

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(draw, range(50)))
    served = [status for status, *_ in answers].count(200)
    assert served >= server_module.MAX_WAITING
    busy = [answer for answer in answers if answer[0] != 200]
    assert all("at once" in refused(answer, 503) for answer in busy)
    assert alive(server)
    record_property(
        "50 questions to the demo at once: served, told to wait, failed",
        f"{served}, {len(busy)}, 0",
    )


def test_what_fails_inside_stays_inside(server, monkeypatch, capsys):
    def fail(*arguments):
        raise RuntimeError("/a/secret/path")

    monkeypatch.setattr(server.workshop, "draw", fail)
    answer = ask(server, "/api/draw", DRAW)
    assert "secret" not in refused(answer, 500)
    assert "RuntimeError: /a/secret/path" in capsys.readouterr().err
    assert alive(server)


# Directions, and the command


def test_directions_come_back(tmp_path, found):
    demo.write_directions(tmp_path / "d.npz", found)
    read = demo.read_directions(tmp_path / "d.npz", SIZE * SIZE * 3)
    assert list(read) == list(found)
    for name, direction in read.items():
        assert direction.dtype == "float32"
        np.testing.assert_allclose(direction, found[name], rtol=1e-3)


def test_directions_that_are_none(tmp_path):
    names, good = np.array(["a", "b"]), np.ones((2, 12), "f4")

    class Gadget:
        def __reduce__(self):
            return (pathlib.Path.touch, (tmp_path / "canary",))

    cases = {
        "object": {"names": names, "directions": np.array([[Gadget()] * 12])},
        "names": {"names": np.array([Gadget()] * 2), "directions": good},
        "shape": {"names": names, "directions": good[:, :5]},
        "nan": {"names": names, "directions": good * np.nan},
        "integers": {"names": names, "directions": good.astype(int)},
        "twice": {"names": names[[0, 0]], "directions": good},
        "none": {"names": names[:0], "directions": good[:0]},
        "missing": {"names": names},
        "large": {"names": names, "directions": np.zeros((10**4, 12))},
    }
    for name, arrays in cases.items():
        np.savez_compressed(tmp_path / f"{name}.npz", **arrays)
    (tmp_path / "text.npz").write_text("no zip file")
    for name in (*cases, "text", "absent"):
        path = tmp_path / f"{name}.npz"
        with pytest.raises(ValueError, match=re.escape(str(path))) as error:
            demo.read_directions(path, 12)
        assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "canary").exists()


def test_run(model, found, tmp_path, monkeypatch, capsys):
    demo.write_directions(tmp_path / "x_attributes.npz", found)
    file = demo.directions_path(tmp_path / "x.keras")
    assert file == tmp_path / "x_attributes.npz"
    assert demo.directions_path(tmp_path / "y.keras") is None
    opened = threading.Event()

    def serve(server):
        assert list(server.workshop.directions) == list(found)
        assert opened.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo.Server, "serve_forever", serve)
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.set())
    demo.serve(lambda: model, "x", file, port=0)
    assert "http://127.0.0.1:" in capsys.readouterr().out


def test_command(server, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(demo, "serve", lambda *args: calls.append(args))
    assert cli.main(["demo", "--port", "0", "--no-browser"]) == 0
    ((_, name, file, port, browser, classes),) = calls
    assert (name, port, browser, classes) == ("faces32", 0, False, None)
    assert file is None or file.name == "faces32_attributes.npz"
    with pytest.raises(SystemExit, match="2"):
        cli.main(["demo", "--port", "70000"])
    monkeypatch.undo()
    assert cli.main(["demo", "--port", str(server.server_port)]) == 1
    assert f"Port {server.server_port} of" in capsys.readouterr().err
    assert cli.main(["demo", "--port", "0", "--model", "absent.keras"]) == 1
    assert "absent.keras" in capsys.readouterr().err


def test_the_shipped_directions_fit_the_shipped_model():
    file = demo.directions_path(keras_glow.presets.preset_path("faces32"))
    read = demo.read_directions(file, 32 * 32 * 3)
    assert {"Smiling", "Eyeglasses", "Blond_Hair"} <= set(read)
    lengths = [np.linalg.norm(direction) for direction in read.values()]
    assert 1 < min(lengths) and max(lengths) < 30


# The browser


@pytest.fixture(scope="module")
def context():
    """A browser for all tests: starting one takes seconds."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=FLAGS
        )
        context = browser.new_context(reduced_motion="reduce")
        context.set_default_timeout(60_000)
        yield context
        browser.close()


@pytest.fixture(scope="module")
def tab(context, server):
    tab = context.new_page()
    tab.problems = []
    tab.on("pageerror", lambda error: tab.problems.append(str(error)))
    tab.on(
        "console",
        lambda message: (
            message.type in ("error", "warning")
            and tab.problems.append(message.text)
        ),
    )
    tab.goto(server.url)
    return tab


@pytest.fixture
def any_page(tab):
    """The page as a test left it; in the end its console has no errors."""
    at_rest(tab)
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.emulate_media(color_scheme="light")
    tab.problems.clear()
    yield tab
    assert tab.problems == []


@pytest.fixture
def page(any_page):
    """The page as it starts."""
    any_page.evaluate("sessionStorage.clear()")
    any_page.reload()
    at_rest(any_page)
    return any_page


def at_rest(page):
    """Waits until every question is answered, and the pictures are shown."""
    page.locator("#samples img").nth(workshop.SAMPLES - 1).wait_for()
    page.locator("#save[href^=data]").wait_for()
    page.locator("[aria-busy]").first.wait_for(state="detached")


def move(page, slider, value):
    page.locator(slider).fill(str(value))
    at_rest(page)


def shown(page, selector):
    """The pixels of the pictures that fit a selector."""
    sources = page.locator(selector).evaluate_all(
        "images => images.map(image => image.complete && image.src)"
    )
    return np.stack([pixels(source) for source in sources])


def result(page):
    (picture,) = shown(page, "#result .picture")
    return picture


def face(page, slot):
    (picture,) = shown(page, f"#{slot} .picture")
    return picture


def upload(page, slot, content, name="face.png"):
    page.locator(f"#{slot} input").set_input_files(
        {"name": name, "mimeType": "image/png", "buffer": content}
    )


@in_a_browser
def test_drawing(page, model):
    def drawn():
        return shown(page, "#samples img")

    def expected(temperature, seed):
        return model.sample(workshop.SAMPLES, temperature, seed=seed)

    first = drawn()
    assert_array_equal(first, expected(0.7, 1))
    page.fill("#seed", "7")
    at_rest(page)
    assert_array_equal(drawn(), expected(0.7, 7))
    page.fill("#seed", "1")
    at_rest(page)
    assert_array_equal(drawn(), first)
    move(page, "#Level-1-finest", 0.2)
    assert_array_equal(drawn(), expected([0.2, 0.7], 1))
    move(page, "#Level-2-coarsest", 1.3)
    assert_array_equal(drawn(), expected([0.2, 1.3], 1))
    move(page, "#All-levels", 0)
    mode = drawn()
    assert_array_equal(mode, np.repeat(mode[:1], len(mode), axis=0))
    assert page.locator("#Level-1-finest").input_value() == "0"
    move(page, "#All-levels", 1)
    page.click("#new-seed")
    at_rest(page)
    seed = int(page.input_value("#seed"))
    images = expected(1.0, seed)
    assert_array_equal(drawn(), images)
    captions = page.locator("#samples button").all_text_contents()
    bits = model.bits_per_dim(images, seed=0)
    assert captions[0] == f"{bits[0]:.2f} bits/dim"
    numbers = [float(caption.split()[0]) for caption in captions]
    np.testing.assert_allclose(numbers, bits, atol=0.2)
    page.fill("#seed", "-1")
    assert "0..4294967295" in page.text_content("#error")
    assert_array_equal(drawn(), images)


@in_a_browser
def test_faces_are_picked_for_either_slot(page):
    drawn = shown(page, "#samples img")
    assert_array_equal(face(page, "a"), drawn[0])
    assert_array_equal(face(page, "b"), drawn[1])
    page.locator("#samples button").nth(2).click()
    at_rest(page)
    page.get_by_label("image B", exact=True).check()
    page.locator("#samples button").nth(4).click()
    at_rest(page)
    assert_array_equal(face(page, "a"), drawn[2])
    assert_array_equal(face(page, "b"), drawn[4])
    assert_array_equal(result(page), drawn[2])
    marked = page.locator("[data-slots]").evaluate_all(
        "buttons => buttons.map(button => button.dataset.slots)"
    )
    assert marked == ["A", "B"]


@in_a_browser
def test_an_upload_is_reconstructed_to_the_byte(page, model):
    for slot, image in (("a", FACES[0]), ("b", FACES[1])):
        upload(page, slot, encoded(image))
        at_rest(page)
        both = shown(page, f"#{slot} img")
        assert_array_equal(both, [image, image])
        assert page.text_content(f"#{slot} .exact") == "exact, every pixel"
        bits = model.bits_per_dim(image[None], seed=0)[0]
        assert page.text_content(f"#{slot} .bits") == f"{bits:.2f} bits/dim"
    assert_array_equal(result(page), FACES[0])
    lines = page.locator("#result p").all_text_contents()
    assert lines[0] == "Equals A in every pixel"
    differing = np.sum(FACES[0] != FACES[1])
    assert lines[1] == f"{differing} of 432 values differ from B"
    upload(page, "a", encoded(np.dstack([FACES[2], FACES[2][..., :1]])))
    at_rest(page)
    assert not np.array_equal(face(page, "a"), FACES[0])


@in_a_browser
def test_blending(page, model):
    a, b = face(page, "a"), face(page, "b")
    z = model.encode(np.stack([a, b]))
    assert_array_equal(result(page), a)
    straight = {}
    for share in (0.5, 1, 0):
        move(page, "#share", share)
        straight[share] = result(page)
        (expected,) = model.decode(latent.interpolate(z, [share]))
        assert_array_equal(straight[share], expected)
    assert_array_equal(straight[1], b)
    assert_array_equal(straight[0], a)
    move(page, "#share", 0.5)
    assert page.text_content(".blend output") == "50 % B"
    page.check("#spherical")
    at_rest(page)
    (expected,) = model.decode(latent.interpolate(z, [0.5], spherical=True))
    assert_array_equal(result(page), expected)
    assert not np.array_equal(result(page), straight[0.5])
    move(page, "#share", 0)
    assert_array_equal(result(page), a)


@in_a_browser
def test_attributes(page, model, found):
    a = face(page, "a")
    for name, direction in found.items():
        slider = "#" + name.replace("_", "-")
        for strength in (-3, 0):
            move(page, slider, strength)
            (expected,) = latent.apply_direction(
                model, a[None], direction, strength
            )
            assert_array_equal(result(page), expected)
            assert np.array_equal(expected, a) == (strength == 0)
    move(page, "#Smiling", 1)
    move(page, "#Blond-Hair", -1)
    z = model.encode(a[None]) + found["Smiling"] - found["Blond_Hair"]
    assert_array_equal(result(page), model.decode(z)[0])
    page.click("#reset")
    at_rest(page)
    assert_array_equal(result(page), a)
    assert (
        page.input_value("#Smiling") == page.input_value("#Blond-Hair") == "0"
    )


@in_a_browser
def test_the_result_is_saved(page):
    move(page, "#share", 0.5)
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "image.png"
    content = pathlib.Path(download.value.path()).read_bytes()
    enlarged = pixels(content)
    assert enlarged.shape == (504, 504, 3)
    assert_array_equal(enlarged[::42, ::42], result(page))
    assert_array_equal(enlarged[41::42, 41::42], result(page))
    with page.expect_download() as download:
        page.click("#save-exact")
    content = pathlib.Path(download.value.path()).read_bytes()
    assert_array_equal(pixels(content), result(page))


@in_a_browser
def test_by_keyboard_alone(page):
    # Every control has a name.
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("input, button, a, progress")]
        .filter(node => !(node.labels?.length || node.textContent.trim()
            || node.ariaLabel)).map(node => node.outerHTML)"""
    )
    assert unnamed == []
    assert page.locator("img:not([alt])").count() == 0
    assert page.locator("[role=status]").text_content().startswith("Result")
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                """() => {
                const at = document.activeElement;
                const style = getComputedStyle(at);
                const seen = style.outlineStyle !== "none";
                return [at.id || at.name || at.textContent.trim(), seen];
                }"""
            )
        )
        if reached[-1][0] == "reset":
            break
    names = [name for name, _ in reached]
    for name in (
        *("seed", "new-seed", "All-levels", "Level-1-finest", "slot"),
        *("Level-2-coarsest", "save", "share", "spherical"),
        *("Smiling", "Blond-Hair", "reset"),
    ):
        assert name in names
    assert sum("bits/dim" in name for name in names) == workshop.SAMPLES
    assert all(seen for name, seen in reached if name != "slot")
    # Arrows move sliders and radio buttons, Enter and Space press.
    before = result(page)
    page.focus("#Smiling")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    at_rest(page)
    assert page.input_value("#Smiling") == "0.2"
    page.keyboard.press("End")
    at_rest(page)
    assert not np.array_equal(result(page), before)
    page.focus("#reset")
    page.keyboard.press("Enter")
    at_rest(page)
    assert_array_equal(result(page), before)
    page.focus("[name=slot][value=a]")
    page.keyboard.press("ArrowRight")
    page.locator("#samples button").nth(6).focus()
    page.keyboard.press("Space")
    at_rest(page)
    assert_array_equal(face(page, "b"), shown(page, "#samples img")[6])


@in_a_browser
def test_narrow_screens(any_page):
    for width in (320, 390, 700):
        check_narrow(any_page, width)


def check_narrow(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [
        page.locator(selector).bounding_box()
        for selector in (".controls", ".stage", "#a", "#result", ".blend")
    ]
    for above, below in zip(boxes, boxes[1:], strict=False):
        assert above["y"] + above["height"] <= below["y"]
    for box in boxes:
        assert 0 <= box["x"] and box["x"] + box["width"] <= width
    # The result is in sight, above it, while the last slider moves.
    page.locator("#Blond-Hair").scroll_into_view_if_needed()
    slider = page.locator("#Blond-Hair").bounding_box()
    box = page.locator("#result .picture").bounding_box()
    assert 0 <= box["y"] < box["y"] + box["height"] < slider["y"] < 800


def luminance(colour):
    """Relative luminance of WCAG 2 of `rgb(...)`."""
    rgb = np.array(re.findall(r"\d+", colour)[:3], float) / 255
    linear = np.where(
        rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4
    )
    return float(linear @ [0.2126, 0.7152, 0.0722])


@in_a_browser
def test_light_and_dark(any_page):
    any_page.evaluate("document.querySelector('#error').textContent = 'x'")
    for scheme in ("light", "dark"):
        check_colours(any_page, scheme)


def check_colours(page, scheme):
    page.emulate_media(color_scheme=scheme)

    def colour(selector, name):
        style = f"node => getComputedStyle(node)['{name}']"
        return luminance(page.locator(selector).first.evaluate(style))

    card = colour("section", "backgroundColor")
    assert card > 0.9 if scheme == "light" else card < 0.03
    paper = colour("body", "backgroundColor")
    for selector, ground in (
        *(("h2", card), (".hint", card), (".bits", card), ("output", card)),
        *(("#samples button", card), ("#save", card), ("#error", card)),
        *(("h1", paper), ("#about", paper), ("#reset", paper)),
    ):
        light, dark = sorted([colour(selector, "color"), ground])[::-1]
        assert (light + 0.05) / (dark + 0.05) >= 4.5, selector


@in_a_browser
def test_a_refused_upload_is_said_and_changes_nothing(page):
    before = face(page, "a"), result(page)
    files = {
        "cut.png": (HOSTILE["cut.png"], "cannot be read"),
        "picture.svg": (HOSTILE["picture.svg"], "is not an image"),
        "../../bomb.png": (HOSTILE["bomb.png"], "is too large"),
        "large.png": (bytes(11_000_000), "at most 10 MB"),
    }
    for name, (content, reason) in files.items():
        upload(page, "a", content, name)
        page.locator("#error", has_text=reason).wait_for()
        at_rest(page)
        assert_array_equal(face(page, "a"), before[0])
        assert_array_equal(result(page), before[1])
        upload(page, "b", encoded(FACES[3]))
        at_rest(page)
        assert page.text_content("#error") == ""
        page.locator("#b input").set_input_files([])
    assert_array_equal(face(page, "b"), FACES[3])
    # The browser itself notes the three that the server refused.
    assert len(page.problems) == 3
    assert all("400" in problem for problem in page.problems)
    page.problems.clear()


@in_a_browser
def test_the_square_of_an_upload_is_moved_and_sized(page):
    picture = random_images(1, (30, 120, 3), seed=4)[0]

    def taken(left, top, side):
        square = Image.fromarray(picture[top : top + side, left : left + side])
        size = (SIZE, SIZE)
        return np.asarray(square.resize(size, Image.Resampling.LANCZOS))

    panel = page.locator("#crop-a")
    assert panel.is_hidden()
    upload(page, "a", encoded(picture))
    panel.wait_for()
    at_rest(page)
    middle = taken(45, 0, 30).astype(int)
    assert np.abs(middle - face(page, "a")).max() <= 1
    note = "The image is 120x30: its middle square is taken."
    assert page.text_content("#a .notes") == note  # and it stays
    panel.locator("input").fill("12")
    at_rest(page)
    assert_array_equal(face(page, "a"), taken(54, 9, 12))
    assert_array_equal(result(page), face(page, "a"))
    panel.locator(".box").focus()
    for key, place in (("ArrowRight", (55, 9)), ("ArrowUp", (55, 8))):
        page.keyboard.press(key)
        at_rest(page)
        assert_array_equal(face(page, "a"), taken(*place, 12))
    panel.locator(".box").scroll_into_view_if_needed()
    box = panel.locator(".box").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] - 1000, box["y"] + 1000, steps=3)
    page.mouse.up()
    at_rest(page)
    assert_array_equal(face(page, "a"), taken(0, 18, 12))
    page.set_viewport_size({"width": 320, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    # Another image, and there is nothing to choose any more.
    page.locator("#samples button").nth(3).click()
    at_rest(page)
    assert panel.is_hidden()
    assert page.text_content("#a .notes") == ""


@in_a_browser
def test_classes_are_chosen(any_page, server, digits, monkeypatch):
    page = any_page
    assert page.locator("#class").is_hidden()
    work = demo.Workshop(digits, "digits", {}, ["one", "two", "three"])
    monkeypatch.setattr(server, "workshop", work)
    page.evaluate("sessionStorage.clear()")
    page.reload()
    at_rest(page)

    def expected(labels):
        return digits.sample(12, 0.7, seed=1, labels=labels)[..., 0]

    assert_array_equal(shown(page, "#samples img"), expected(np.arange(12) % 3))
    assert page.input_value("#class-a") == "0"
    assert page.input_value("#class-b") == "1"
    page.select_option("#class", label="three")
    at_rest(page)
    assert_array_equal(shown(page, "#samples img"), expected(2))
    page.locator("#samples button").nth(4).click()
    at_rest(page)
    assert page.input_value("#class-a") == "2"
    a = face(page, "a")
    assert_array_equal(result(page), a)
    page.select_option("#class-result", label="one")
    at_rest(page)
    z = digits.encode(a[None, ..., None], [2])
    assert_array_equal(result(page), digits.decode(z, [0])[0, ..., 0])
    page.select_option("#class-a", label="one")
    at_rest(page)
    assert_array_equal(result(page), a)
    before = page.text_content("#a .bits")
    page.reload()
    at_rest(page)
    assert page.text_content("#a .bits") == before
    assert page.input_value("#class") == "2"
    assert page.input_value("#class-result") == "0"
    monkeypatch.undo()
    page.evaluate("sessionStorage.clear()")
    page.reload()
    at_rest(page)


@in_a_browser
def test_a_server_that_is_gone_is_said(page):
    page.route("**/api/edit", lambda route: route.abort())
    page.locator("#share").fill("0.5")
    page.locator("#error", has_text="No answer").wait_for()
    page.unroute("**/api/edit")
    move(page, "#share", 0.6)
    assert page.text_content("#error") == ""
    page.problems.clear()


@in_a_browser
def test_work_that_takes_longer_shows_progress(page, server, monkeypatch):
    draw, go_on = server.workshop.draw, threading.Event()

    def wait_and_draw(*arguments):
        assert go_on.wait(30)
        return draw(*arguments)

    monkeypatch.setattr(server.workshop, "draw", wait_and_draw)
    progress = page.get_by_label("Drawing")
    assert not progress.is_visible()
    page.fill("#seed", "5")
    progress.wait_for(state="visible")
    page.fill("#seed", "6")  # meanwhile: asked once the first is answered
    page.fill("#seed", "8")
    go_on.set()
    at_rest(page)
    assert not progress.is_visible()
    expected = server.workshop.model.sample(12, 0.7, seed=8)
    assert_array_equal(shown(page, "#samples img"), expected)


@in_a_browser
def test_a_reload_loses_nothing_and_tabs_do_not_meet(page, context, server):
    other = context.new_page()
    other.goto(server.url)
    at_rest(other)
    other.fill("#seed", "11")
    upload(page, "a", encoded(FACES[2]))
    page.fill("#seed", "9")
    move(page, "#Level-1-finest", 0.5)
    move(page, "#share", 0.3)
    page.check("#spherical")
    move(page, "#Smiling", 1)
    before = shown(page, "img")
    at_rest(other)
    assert_array_equal(
        shown(other, "#samples img"),
        server.workshop.model.sample(12, 0.7, seed=11),
    )
    other.close()
    page.reload()
    at_rest(page)
    assert_array_equal(shown(page, "img"), before)
    assert page.input_value("#seed") == "9"
    assert page.input_value("#share") == "0.3"
    assert page.input_value("#Smiling") == "1"
    assert page.is_checked("#spherical")


@in_a_browser
def test_without_directions_a_line_says_so(
    any_page, server, model, monkeypatch
):
    page = any_page
    monkeypatch.setattr(server, "workshop", demo.Workshop(model, "plain"))
    assert page.locator("#no-attributes").is_hidden()
    page.reload()
    at_rest(page)
    assert page.locator("#no-attributes").is_visible()
    assert page.locator("#attributes input").count() == 0
    assert page.locator("#reset").is_hidden()
