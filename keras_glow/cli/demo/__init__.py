"""A page in the browser that draws, edits and blends: `keras-glow demo`.

`workshop` does what the page can ask for, `server` takes its questions over
HTTP, `page/` is the page itself, and `directions_file` reads the file that its
sliders come from.
"""

from keras_glow.cli.demo.directions_file import (
    beside,
    directions_path,
    read_directions,
    write_directions,
)
from keras_glow.cli.demo.server import Server, serve
from keras_glow.cli.demo.workshop import Workshop

__all__ = [
    "Server",
    "Workshop",
    "beside",
    "directions_path",
    "read_directions",
    "serve",
    "write_directions",
]
