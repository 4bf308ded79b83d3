"""What tests of several runtimes share: small networks in which every layer matters, and their comparison."""

import numpy as np
import torch
from small import SIZE, camera_pose, small_model

from gsrender_core.config import EncoderConfig
from gsrender_core.data.frame import Frame
from gsrender_core.model.gsrender import GSRender

CPU, FLOAT = torch.device("cpu"), torch.float32
SUBPIXEL = EncoderConfig(channels=8, features=6, widen="subpixel")


def network(seed=0, **changes) -> GSRender:
    """Random weights in which every layer matters: heads start at zero and batch norms at one otherwise."""
    torch.manual_seed(seed)
    model = GSRender(small_model(**changes), load_pretrained=False)
    with torch.no_grad():
        if model.config.head.kind == "gaussian":
            model.head.output.weight.normal_()
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
    return model.eval()


def frame_of(seed: int, cameras: int = 3) -> Frame:
    """Noise images of cameras with intrinsics and poses of their own."""
    rng = np.random.default_rng(seed)
    focal = rng.uniform(40, 80, cameras)
    Ks = np.stack([[[f, 0, 48], [0, f, 30], [0, 0, 1.0]] for f in focal])
    poses = np.stack([camera_pose(*rng.uniform((-3, -1, 0), (3, 1, 1))) for _ in range(cameras)])
    images = rng.integers(0, 256, (cameras, 3, SIZE[1], SIZE[0]), dtype=np.uint8)
    return Frame(images, Ks, poses, np.eye(4), 0, tuple(str(c) for c in range(cameras)))


@torch.inference_mode()
def opacity_reached_by(predictor, frame, share) -> float:
    opacity, _ = predictor.model.opacity_and_logits(predictor.features(frame))
    return float(torch.sigmoid(opacity).quantile(1 - share))


@torch.inference_mode()
def assert_same(engine, predictor, frame):
    """An engine against the eager torch of a predictor, at a threshold that half of the voxels reach."""
    tau = opacity_reached_by(predictor, frame, 0.5)
    (expected, expected_confidence), (got, confidence) = predictor._by_torch(frame, tau), engine(frame, tau)
    assert got.dtype == np.uint8 and confidence.dtype == np.float32 and got.shape == expected.shape
    assert 0.05 < (expected != 17).mean() < 0.95, "equal opacities: nothing is compared"
    # Float32 sums in another order: a voxel on the threshold or between two classes may fall either way.
    assert (got == expected).mean() > 0.999
    np.testing.assert_allclose(confidence[got == expected], expected_confidence[got == expected], atol=1e-4)
