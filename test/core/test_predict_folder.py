"""Files that ``gsrender predict`` leaves."""

import cv2
import numpy as np
import pytest
import torch
from small import GRID, SmallData, small_model

from gsrender_core.model.gsrender import GSRender
from gsrender_core.predict_folder import predict_folder, write_png
from gsrender_core.predictor import Predictor


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    return Predictor(GSRender(small_model(), load_pretrained=False), device="cpu")


def test_every_sample_gets_its_grid_and_its_picture(predictor, tmp_path):
    data, seen = SmallData(), []
    assert predict_folder(predictor, data, tmp_path / "new", limit=2, progress=lambda *a: seen.append(a)) == 2
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["t0.npz", "t0.png", "t1.npz", "t1.png"]
    assert seen == [(1, 2), (2, 2)]
    for i in range(2):
        expected = predictor(data.frame(i))
        with np.load(tmp_path / "new" / f"t{i}.npz") as written:
            assert written["semantics"].dtype == np.uint8 and written["semantics"].shape == GRID.shape
            assert np.array_equal(written["semantics"], expected.semantics)
            np.testing.assert_allclose(written["confidence"], expected.confidence, atol=1e-3)
        assert cv2.imread(str(tmp_path / "new" / f"t{i}.png")).shape[1] == 1680


def test_without_pictures_and_with_a_limit_that_makes_no_sense(predictor, tmp_path):
    assert predict_folder(predictor, SmallData(frames=1), tmp_path, limit=9, pictures=False) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["t0.npz"]
    with pytest.raises(ValueError, match="limit is 0"):
        predict_folder(predictor, SmallData(frames=1), tmp_path, limit=0)


def test_png_keeps_the_colours(tmp_path):
    image = np.zeros((4, 6, 3), np.uint8)
    image[..., 0] = 200
    write_png(tmp_path / "a.png", image)
    assert (cv2.imread(str(tmp_path / "a.png"))[..., 2] == 200).all()
    with pytest.raises(OSError):
        write_png(tmp_path / "missing" / "a.png", image)
