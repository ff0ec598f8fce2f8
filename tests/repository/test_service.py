"""`examples/service.py`, asked as over HTTP. It needs fastapi and httpx."""

import importlib.util
import io

import numpy as np
import pytest
from helpers import ROOT, move_weights, random_images
from PIL import Image

import keras_glow

pytest.importorskip("fastapi")
pytest.importorskip("httpx")


def test_one_image_at_a_time(tmp_path, monkeypatch):
    from fastapi.testclient import TestClient

    model = keras_glow.Glow((8, 8, 3), levels=1, depth=1, width=4)
    move_weights(model, 0.1)
    model.save(tmp_path / "model.keras")
    monkeypatch.setenv("KERAS_GLOW_MODEL", str(tmp_path / "model.keras"))
    path = ROOT / "examples" / "service.py"
    spec = importlib.util.spec_from_file_location("service", path)
    service = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(service)
    images = random_images(2, (8, 8, 3))
    with TestClient(service.app) as client:
        found = [
            client.post("/score", content=keras_glow.images.png_bytes(image))
            for image in images
        ]
        bits = [answer.json()["bits_per_dim"] for answer in found]
        np.testing.assert_allclose(
            bits, model.bits_per_dim(images, seed="center"), rtol=1e-5
        )
        scores = [answer.json()["anomaly"] for answer in found]
        np.testing.assert_allclose(
            scores,
            keras_glow.latent.anomaly_score(model, images, seed="center"),
            rtol=1e-5,
        )
        for content, status in ((b"no image", 400), (bytes(10**7 + 1), 413)):
            refused = client.post("/score", content=content)
            assert refused.status_code == status
            assert len(refused.json()["detail"].splitlines()) == 1
        drawn = client.get("/sample?seed=3&temperature=0.5").content
        drawn = np.asarray(Image.open(io.BytesIO(drawn)))
        np.testing.assert_array_equal(drawn, model.sample(1, 0.5, seed=3)[0])
        assert client.get("/sample?seed=-1").status_code == 400
