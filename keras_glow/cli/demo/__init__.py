"""A page in the browser that draws, edits and blends: `keras-glow demo`.

`workshop` is what the page can do, `server` brings it there, `page/` is the
page itself, and `directions` reads the file that its sliders come from.
"""

import logging
import pathlib
import sys
import threading
import webbrowser

from keras_glow.cli.demo.directions import read_directions
from keras_glow.cli.demo.server import Server
from keras_glow.cli.demo.workshop import Workshop

__all__ = ["Server", "Workshop", "directions_of", "read_directions", "run"]


def run(load, name, directions=None, port=8000, browser=True):
    """Serves the page until Ctrl-C.

    Args:
        load: function that gives the `Glow`; it is called once the port is
            taken, so that a port in use is told at once.
        name: str, what the page calls the model.
        directions: path of a file for `read_directions`, or None: then there
            are no sliders.
        port: int, of 127.0.0.1; 0 for any that is free.
        browser: bool, whether to open a browser.

    Raises:
        OSError: if the port is taken.
        ValueError: if the model or the directions cannot be used.
    """
    with Server(port) as server:
        print(f"Loading {name} ...", flush=True)
        model = load()
        found = {}
        if directions is not None:
            found = read_directions(directions, model.dimensions)
        workshop = Workshop(model, name, found)
        print("Compiling: this takes a while ...", flush=True)
        # TensorFlow warns of several batch sizes: there are no more than these.
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
        workshop.warm_up()
        server.workshop = workshop
        print(f"{server.url} (Ctrl-C stops it)", flush=True)
        if browser:
            # A browser of the terminal holds its caller up.
            arguments = {"target": webbrowser.open, "args": [server.url]}
            threading.Thread(**arguments, daemon=True).start()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("Stopped.", file=sys.stderr)


def directions_of(model_file):
    """The directions that come with a model, a path beside it; None if none."""
    path = pathlib.Path(model_file)
    path = path.with_name(f"{path.stem}_attributes.npz")
    return path if path.is_file() else None
