"""Latency and memory of `examples/service.py`, asked by clients at once.

    python benchmarks/service.py --requests 10000 --clients 4

Starts uvicorn in this process, and asks it over HTTP for the scores of drawn
images: from each client one request after the other. Prints a line for each
tenth of the requests, so that memory that grows would be seen. Needs `fastapi`
and `uvicorn`; memory is told on Linux only.
"""

import argparse
import concurrent.futures
import http.client
import json
import os
import pathlib
import re
import statistics
import sys
import threading
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = pathlib.Path(__file__).resolve().parents[1]
PORT = 8765


def resident():
    """MB of memory that this process has."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    return int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1]) / 1024


def ask(content):
    """Seconds that one image took."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", PORT)
    connection.request("POST", "/score", content)
    answer = connection.getresponse()
    found = json.loads(answer.read())
    connection.close()
    assert answer.status == 200 and "anomaly" in found, found
    return time.perf_counter() - start


def main():
    """Prints a line for each tenth of the requests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "examples"))
    start = time.perf_counter()
    import service
    import uvicorn

    import keras_glow

    config = uvicorn.Config(service.app, port=PORT, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.1)
    print(f"ready after {time.perf_counter() - start:.1f} s")
    drawn = service.app.state.model.sample(16, seed=1)
    files = [keras_glow.images.png_bytes(image) for image in drawn]
    part = max(1, options.requests // 10)
    with concurrent.futures.ThreadPoolExecutor(options.clients) as pool:
        for done in range(0, options.requests, part):
            start = time.perf_counter()
            asked = [files[i % len(files)] for i in range(part)]
            seconds = sorted(pool.map(ask, asked))
            rate = part / (time.perf_counter() - start)
            middle = 1e3 * statistics.median(seconds)
            long = 1e3 * seconds[-(part // 100) - 1]
            print(
                f"{done + part} requests: median {middle:.0f} ms, 99 of 100 in "
                f"{long:.0f} ms, {rate:.0f} a second, {resident():.0f} MB",
                flush=True,
            )
    server.should_exit = True
    thread.join()


if __name__ == "__main__":
    main()
