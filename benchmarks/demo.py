"""How long the page of `keras-glow demo` waits for each of its questions.

    python benchmarks/demo.py [--model faces32] [--count 20]

Starts the server in this process and asks it over HTTP, as the page does, with
one client. Prints the time from the start until the first question can be
asked, and for each control the median and the longest of all answers.
"""

import argparse
import base64
import http.client
import json
import os
import statistics
import threading
import time
import urllib.parse

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def ask(server, path, body):
    """What the server answers, and after how many seconds."""
    kind = "application/octet-stream"
    if isinstance(body, dict):
        body, kind = json.dumps(body), "application/json"
    start = time.perf_counter()
    connection = http.client.HTTPConnection(*server.server_address)
    connection.request("POST", path, body, {"Content-Type": kind})
    answer = connection.getresponse()
    content = json.loads(answer.read())
    seconds = time.perf_counter() - start
    assert answer.status == 200, content
    return content, seconds


def main():
    """Prints a line for each control."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="faces32", help="name of a preset")
    parser.add_argument("--count", type=int, default=20)
    options = parser.parse_args()
    start = time.perf_counter()
    from keras_glow import Glow
    from keras_glow.cli import demo
    from keras_glow.files.presets import preset_path

    model = Glow.from_preset(options.model)
    file = demo.directions_path(preset_path(options.model))
    found = demo.read_directions(file, model.dimensions) if file else {}
    workshop = demo.Workshop(model, options.model, found)
    workshop.warm_up()
    print(f"start: {time.perf_counter() - start:.1f} s")
    server = demo.Server(0, workshop)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    draw = {"seed": 0, "temperature": 0.7, "label": None}
    drawn, _ = ask(server, "/api/draw", draw)
    a, b = (picture["png"] for picture in drawn["pictures"][:2])
    label = drawn["pictures"][0]["label"]
    seen = urllib.parse.quote(json.dumps({"crop": None, "label": label}))
    still = {
        **{"a": a, "b": b, "share": 0, "spherical": False, "strengths": {}},
        "labels": None if label is None else [label] * 3,
    }
    strengths = dict.fromkeys(found, 0.5)
    questions = {
        "draw 12": ("/api/draw", {**draw, "seed": 1}),
        "look at an image": (f"/api/look?{seen}", base64.b64decode(a)),
        "blend": ("/api/edit", {**still, "share": 0.5}),
        "blend on the sphere": (
            "/api/edit",
            {**still, "share": 0.5, "spherical": True},
        ),
        f"{len(found)} attributes": (
            "/api/edit",
            {**still, "strengths": strengths},
        ),
    }
    for name, question in questions.items():
        times = [ask(server, *question)[1] for _ in range(options.count)]
        print(
            f"{name}: median {statistics.median(times):.3f} s, "
            f"longest {max(times):.3f} s"
        )
    server.shutdown()


if __name__ == "__main__":
    main()
