"""Rendered depth against the LiDAR points of the training frames that training never saw (``hold_out_labels``).

It needs no ground truth: with it a run on plain recordings shows whether it learns. The points lie among
points that were trained on, in the same frames: low error says that cameras, poses, stamps and losses fit
together, nothing about other places.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from gsrender_core.classes import NUM_CLASSES
from gsrender_core.config import TrainConfig
from gsrender_core.data.frame import Frame, PixelLabels
from gsrender_core.data.lidar_labels import label_points
from gsrender_core.data.occ3d_labels import read_npz_arrays
from gsrender_core.marching import march_view
from gsrender_core.metrics.miou import without_nan
from gsrender_core.model.gsrender import GSRender
from gsrender_core.pictures.depth_picture import depth_picture
from gsrender_core.render import Cameras, Rendered
from gsrender_core.splatting import splat_view
from gsrender_core.statistics import voxel_features
from gsrender_core.training_frames import FrameLabels
from gsrender_core.views import View
from gsrender_core.whole_file import write_whole

logger = logging.getLogger(__name__)

WITHIN = 0.1  # relative error that counts as close


def check_held_out(config: TrainConfig, dataset) -> None:
    """Refuse data that does not hold out what the configuration says.

    Raises:
        ValueError: the data set holds out another share, or cannot hold out at all.
    """
    share = getattr(getattr(dataset, "label_options", None), "hold_out", None)
    if share != config.hold_out_labels:
        raise ValueError(
            f"hold_out_labels is {config.hold_out_labels}, the data holds out {share or 'nothing'}; read it with "
            "LabelOptions(hold_out=config.hold_out_labels)"
        )


@torch.inference_mode()
def render_labels(model: GSRender, config: TrainConfig, P: torch.Tensor, frame: Frame, labels: PixelLabels) -> Rendered:
    """What voxel features P [F, X, Y, Z] of a frame show at M labelled pixels of its cameras.

    Everything that the grid holds takes part: nothing is pruned and nothing drawn at random.
    """
    head = dataclasses.replace(config.model.head, nerf_jitter=False)
    plain = dataclasses.replace(config, prune_opacity=0.0, model=dataclasses.replace(config.model, head=head))

    def tensor(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(P.device, dtype)

    target = FrameLabels(
        camera=tensor(labels.camera, torch.int64),
        uv=tensor(labels.uv, torch.float32),
        depth_m=tensor(labels.depth_m, torch.float32),
        class_id=tensor(labels.class_id, torch.int64),
        draw=torch.ones(len(labels), device=P.device),
        Ks=tensor(frame.Ks, torch.float32),
        T_ego_cam=tensor(frame.T_ego_cam, torch.float32),
        T_global_ego=frame.T_global_ego,
    )
    cameras = Cameras(torch.linalg.inv(target.T_ego_cam), target.Ks, *frame.image_size)
    everywhere = torch.ones(len(target.Ks), dtype=torch.bool, device=P.device)
    view = View(target, torch.arange(len(labels), device=P.device), cameras, everywhere)
    see = march_view if head.kind == "nerf" else splat_view
    return see(model, plain, P, view, None).rendered


def depth_errors(depth_m: np.ndarray, target_m: np.ndarray) -> dict[str, float]:
    """Relative depth errors of M points: their median, their mean, and the share within 10 %."""
    error = np.abs(depth_m - target_m) / target_m
    return {
        "median_abs_rel": float(np.median(error)),
        "mean_abs_rel": float(error.mean()),
        "within_10_percent": float((error <= WITHIN).mean()),
    }


class HeldOutDepth:
    """Measures rendered depth on held-out points of given frames, and draws the first of them.

    Args:
        config: of the training.
        dataset: as ``data.nuscenes.NuScenes``, read with ``LabelOptions(hold_out=...)``.
        frames: indices of the training frames; of many, ``validation_frames`` spread evenly are looked at.

    Raises:
        ValueError: the data does not hold out what the configuration says.
    """

    def __init__(self, config: TrainConfig, dataset, frames: Sequence[int]):
        check_held_out(config, dataset)
        self.config, self.dataset = config, dataset
        stride = max(1, len(frames) // max(1, config.validation_frames))
        self.frames = list(frames)[::stride][: max(1, config.validation_frames)]

    def report(self, model: GSRender, step: int, out: Path) -> dict:
        """Measure at a step of a run, log it, and draw ``held_out_depth.jpg`` into the run's folder.

        What step 0 renders is kept in ``held_out_before.npz``, for the pictures of all later ones.

        Returns:
            ``measure``, without NaN.
        """
        figures = without_nan(self.measure(model))
        logger.info(
            "step %d, %d held-out LiDAR points: rendered depth off by %.1f %% (median), %.1f %% (mean), %.1f %% of it "
            "within 10 %%; class right %s; covered %.1f %%",
            step,
            figures["points"],
            100 * figures["median_abs_rel"],
            100 * figures["mean_abs_rel"],
            100 * figures["within_10_percent"],
            "unknown" if figures["accuracy"] is None else f"{100 * figures['accuracy']:.1f} %",
            100 * figures["covered"],
        )
        maps, before = self.depth_maps(model), Path(out) / "held_out_before.npz"
        if step == 0:

            def write(partial: Path) -> None:
                with partial.open("wb") as file:  # given a name, NumPy appends .npz to it
                    np.savez_compressed(file, depth_m=maps.astype(np.float16))

            write_whole(before, write)
        elif before.is_file():
            picture = self.picture(read_npz_arrays(before, ("depth_m",))["depth_m"], maps)
            write_jpg(Path(out) / "held_out_depth.jpg", picture)
        return figures

    def measure(self, model: GSRender) -> dict:
        """Errors over all cameras of all frames, covered by a Gaussian or not.

        The depth is the alpha-blended one that training supervises: where nothing is rendered it is 0 and the error 1.

        Returns:
            keys of ``depth_errors``; the same with the suffix ``_inside`` over the points in the volume alone, beyond
            which nothing can be rendered; ``accuracy`` of the rendered class where a point has one, NaN where none
            has; ``covered``: share of points with alpha above one half; ``inside``: share in the volume; ``points``.

        Raises:
            ValueError: no held-out point in any image.
        """
        depth, target, right, covered, inside = [], [], [], [], []
        for i in self.frames:
            labels = self.dataset.held_out_labels(i)
            if len(labels) == 0:
                continue
            P, frame = voxel_features(model, self.dataset, i), self.dataset.frame(i, labels=False)
            rendered = render_labels(model, self.config, P, frame, labels)
            points = label_points(labels, frame.Ks, frame.T_ego_cam)
            inside.append(self.config.model.grid.index_of(points)[1])
            depth.append(rendered.depth.cpu().numpy())
            target.append(labels.depth_m)
            covered.append(rendered.alpha.cpu().numpy() > 0.5)
            known = labels.class_id < NUM_CLASSES
            right.append((rendered.logits.argmax(1).cpu().numpy() == labels.class_id)[known])
        if not depth:
            raise ValueError(
                f"none of {len(self.frames)} frames has a held-out LiDAR point in an image; raise hold_out_labels"
            )
        right, target, depth = np.concatenate(right), np.concatenate(target), np.concatenate(depth)
        inside = np.concatenate(inside)
        within = depth_errors(depth[inside], target[inside]) if inside.any() else {}
        return {
            **depth_errors(depth, target),
            **{f"{name}_inside": value for name, value in within.items()},
            "accuracy": float(right.mean()) if len(right) else float("nan"),
            "covered": float(np.concatenate(covered).mean()),
            "inside": float(inside.mean()),
            "points": len(target),
        }

    def depth_maps(self, model: GSRender, step: int = 2) -> np.ndarray:
        """Rendered depth of the first frame at every ``step``-th pixel, float32 [C, h, w] m, 0 where nothing is."""
        frame = self.dataset.frame(self.frames[0], labels=False)
        (width, height), count = frame.image_size, len(frame.Ks)
        w, h = width // step, height // step
        camera, row, column = (a.ravel() for a in np.indices((count, h, w)))
        uv = (np.stack((column, row), axis=1) + 0.5).astype(np.float32) * step
        labels = PixelLabels(camera, uv, np.ones(len(uv), np.float32), np.zeros(len(uv), np.uint8))
        P = voxel_features(model, self.dataset, self.frames[0])
        return render_labels(model, self.config, P, frame, labels).depth.float().cpu().numpy().reshape(count, h, w)

    def picture(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Every camera of the first frame: image, rendered depth before and after, held-out points; uint8 RGB."""
        i = self.frames[0]
        frame = self.dataset.frame(i, labels=False)
        title = f"{frame.scene}   {frame.token}"
        return depth_picture(dataclasses.replace(frame, labels=self.dataset.held_out_labels(i)), before, after, title)


def write_jpg(path: Path, image: np.ndarray) -> None:
    """Write uint8 [H, W, 3] RGB.

    Raises:
        OSError: the file cannot be written.
    """
    done, data = cv2.imencode(".jpg", image[:, :, ::-1], (cv2.IMWRITE_JPEG_QUALITY, 85))
    assert done, image.shape
    Path(path).write_bytes(data.tobytes())
