import numpy as np
import pytest
import torch

from gsrender_core.render import Cameras
from gsrender_core.views import View
from gsrender_core.visibility import visible_voxels, visible_voxels_reference

WIDTH, HEIGHT = 160, 90


def any_view(rng) -> View:
    """Six cameras anywhere, looking anywhere, some of them chosen."""
    viewmats = np.tile(np.eye(4), (6, 1, 1))
    viewmats[:, :3, :3] = np.linalg.qr(rng.normal(size=(6, 3, 3)))[0]
    viewmats[:, :3, 3] = rng.normal(size=(6, 3)) * 5
    Ks = np.tile(np.eye(3), (6, 1, 1))
    Ks[:, 0, 0], Ks[:, 1, 1] = rng.uniform(40, 200, (2, 6))
    Ks[:, 0, 2], Ks[:, 1, 2] = rng.uniform(0.3, 0.7, 6) * WIDTH, rng.uniform(0.3, 0.7, 6) * HEIGHT
    cameras = Cameras(torch.from_numpy(viewmats).float(), torch.from_numpy(Ks).float(), WIDTH, HEIGHT)
    return View(None, torch.zeros(0, dtype=torch.int64), cameras, torch.from_numpy(rng.random(6) < 0.4))


@pytest.mark.parametrize("seed", range(8))
def test_the_kernel_sees_what_the_reference_sees(seed):
    rng = np.random.default_rng(seed)
    view = any_view(rng)
    centers = torch.from_numpy(rng.uniform(-40, 40, (20_000, 3))).float()
    reach_m = float(rng.uniform(0.1, 4))
    seen, wanted = visible_voxels(centers, view, reach_m), visible_voxels_reference(centers, view, reach_m)
    assert seen.dtype == wanted.dtype == torch.int64
    # Only what lies on a border, within rounding, may be told otherwise: a hair more and a hair less reach enclose it.
    wide = set(visible_voxels_reference(centers, view, reach_m + 1e-3).tolist())
    narrow = set(visible_voxels_reference(centers, view, reach_m - 1e-3).tolist())
    assert narrow <= set(seen.tolist()) <= wide and len(wide) - len(narrow) < 60
    assert len(set(seen.tolist()) ^ set(wanted.tolist())) < 5


def test_cameras_that_are_not_chosen_and_no_voxels_at_all():
    view = any_view(np.random.default_rng(0))
    view.chosen[:] = False
    assert visible_voxels(torch.zeros(100, 3), view, 1.0).tolist() == []
    view.chosen[:] = True
    assert visible_voxels(torch.zeros(0, 3), view, 1.0).tolist() == []


def test_other_precisions_take_the_reference():
    rng = np.random.default_rng(1)
    view = any_view(rng)
    view.cameras.viewmats, view.cameras.Ks = view.cameras.viewmats.double(), view.cameras.Ks.double()
    centers = torch.from_numpy(rng.uniform(-40, 40, (2_000, 3)))
    assert torch.equal(visible_voxels(centers, view, 1.0), visible_voxels_reference(centers, view, 1.0))
