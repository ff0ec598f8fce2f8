"""`keras-glow demo`: loads a model and serves the page until Ctrl-C."""

import sys
import threading
import webbrowser

from keras_glow.cli.demo.directions_file import read_directions
from keras_glow.cli.demo.server import Server
from keras_glow.cli.demo.workshop import Workshop


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
