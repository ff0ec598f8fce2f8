"""A service that scores one image at a time, and draws some: `fastapi`.

    pip install 'keras-glow[service]'
    uvicorn --app-dir examples service:app
    curl --data-binary @face.png http://127.0.0.1:8000/score
    curl 'http://127.0.0.1:8000/sample?seed=1' --output sample.png

The model loads and compiles before the first request is taken:
`KERAS_GLOW_MODEL` is a `.keras` file or a preset, `faces32` by default.
Predictions may run in several threads at once. Files are read as everywhere in
this package: told by their content, within limits, refused in one line.
"""

import contextlib
import io
import os

import fastapi
from fastapi.concurrency import run_in_threadpool

import keras_glow

MODEL = os.environ.get("KERAS_GLOW_MODEL", "faces32")
MAX_BYTES = 10_000_000


def load():
    """Returns the model, which has run once."""
    if MODEL in keras_glow.presets.PRESETS:
        model = keras_glow.Glow.from_preset(MODEL)
    else:
        model = keras_glow.load_model(MODEL)
    score(model, keras_glow.images.png_bytes(model.sample(1, seed=0)[0]))
    return model


def score(model, content):
    """Returns the scores of an image, given as the bytes of its file."""
    size, _, channels = model.image_shape
    image = keras_glow.images.load_image(io.BytesIO(content), size, channels)
    # Noise inside the bins would depend on the place in a batch. Its centre is
    # the same for each image and each time.
    bits = model.bits_per_dim(image[None], seed="center")
    anomaly = keras_glow.latent.anomaly_score(model, image[None], seed="center")
    return {"bits_per_dim": float(bits[0]), "anomaly": float(anomaly[0])}


@contextlib.asynccontextmanager
async def lifespan(app):
    """Loads the model when the service starts."""
    app.state.model = await run_in_threadpool(load)
    yield


app = fastapi.FastAPI(title="keras-glow", lifespan=lifespan)


@app.post("/score")
async def answer_score(request: fastapi.Request):
    """Scores the image in the body: the higher, the less like the training."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MAX_BYTES:
            raise fastapi.HTTPException(413, f"over {MAX_BYTES} bytes")
    model = request.app.state.model
    try:
        return await run_in_threadpool(score, model, bytes(content))
    except ValueError as error:
        raise fastapi.HTTPException(400, str(error)) from None


@app.get("/sample")
def answer_sample(
    request: fastapi.Request, seed: int, temperature: float = 0.7
):
    """Draws an image, a PNG file."""
    try:
        (image,) = request.app.state.model.sample(1, temperature, seed)
    except ValueError as error:
        raise fastapi.HTTPException(400, str(error)) from None
    content = keras_glow.images.png_bytes(image)
    return fastapi.Response(content, media_type="image/png")
