"""What every renderer takes and returns: cameras, listed pixels, settings, rendered values."""

from dataclasses import dataclass

import torch

from gsrender_core.gaussians import Gaussians


@dataclass
class Cameras:
    """C pinhole cameras of one image size.

    Attributes:
        viewmats: [C, 4, 4], T_cam_ego, metres: maps ego points into the camera (z forward, x right, y down).
        Ks: [C, 3, 3], intrinsics in pixels, without skew.
        width: image width in pixels.
        height: image height in pixels.
    """

    viewmats: torch.Tensor
    Ks: torch.Tensor
    width: int
    height: int

    def __post_init__(self):
        c = self.viewmats.shape[0]
        if self.viewmats.shape != (c, 4, 4) or self.Ks.shape != (c, 3, 3):
            raise ValueError(
                f"cameras need viewmats [C, 4, 4] and Ks [C, 3, 3], got {tuple(self.viewmats.shape)} "
                f"and {tuple(self.Ks.shape)}"
            )
        if self.width < 1 or self.height < 1:
            raise ValueError(f"image size must be positive, got {self.width} x {self.height} px")

    def __len__(self) -> int:
        return self.viewmats.shape[0]


@dataclass
class Pixels:
    """M image positions to render, in any order, repetitions allowed.

    Attributes:
        camera: int64 [M], index of the camera.
        uv: float32 [M, 2], sub-pixel position; (0.5, 0.5) is the centre of the top-left pixel.
    """

    camera: torch.Tensor
    uv: torch.Tensor

    def __post_init__(self):
        m = self.camera.shape[0]
        if self.camera.shape != (m,) or self.uv.shape != (m, 2) or self.camera.dtype != torch.int64:
            raise ValueError(
                f"pixels need camera int64 [M] and uv [M, 2], got {self.camera.dtype} {tuple(self.camera.shape)} "
                f"and {tuple(self.uv.shape)}"
            )

    def __len__(self) -> int:
        return self.camera.shape[0]

    @staticmethod
    def centers(cameras: Cameras) -> "Pixels":
        """Every pixel centre of every camera, camera by camera, row by row."""
        device = cameras.viewmats.device
        v, u = torch.meshgrid(
            torch.arange(cameras.height, device=device) + 0.5,
            torch.arange(cameras.width, device=device) + 0.5,
            indexing="ij",
        )
        uv = torch.stack((u, v), dim=-1).reshape(-1, 2).float()
        camera = torch.arange(len(cameras), device=device).repeat_interleave(len(uv))
        return Pixels(camera, uv.repeat(len(cameras), 1))


@dataclass
class Rendered:
    """Alpha-blended values of M pixels over a zero background.

    Attributes:
        logits: [M, K] = sum w_i logits_i.
        depth: [M] = sum w_i z_i, metres; z is the camera z of a Gaussian's centre.
        alpha: [M] = sum w_i in [0, 1].
    """

    logits: torch.Tensor
    depth: torch.Tensor
    alpha: torch.Tensor

    def expected_depth(self) -> torch.Tensor:
        """Depth of what was hit, [M] metres: depth / max(alpha, 1e-10)."""
        return self.depth / self.alpha.clamp(min=1e-10)


@dataclass(frozen=True)
class RenderSettings:
    """Constants of the compositing; the defaults are those of gsplat 1.5.3's kernels.

    Attributes:
        near_m, far_m: Gaussians whose centre lies outside this range of camera z are skipped.
        eps2d: added to the diagonal of the projected covariance, px^2.
        alpha_min: contributions below it are skipped, and with them Gaussians of lower opacity.
        alpha_max: cap of one contribution; beyond it opacity and shape get no gradient.
        transmittance_min: a pixel is finished before a contribution would bring it to this or less.
        tile: edge of the square tiles used to sort Gaussians, px; does not change the result.
    """

    near_m: float = 0.5
    far_m: float = 100.0
    eps2d: float = 0.3
    alpha_min: float = 1.0 / 255.0
    alpha_max: float = 0.999
    transmittance_min: float = 1e-4
    tile: int = 16

    def __post_init__(self):
        if not 0 < self.near_m < self.far_m:
            raise ValueError(f"need 0 < near_m < far_m, got {self.near_m} and {self.far_m} m")
        if not 0 < self.alpha_min < self.alpha_max < 1:
            raise ValueError(f"need 0 < alpha_min < alpha_max < 1, got {self.alpha_min} and {self.alpha_max}")
        if self.eps2d <= 0 or not 0 < self.transmittance_min < 1 or self.tile < 1:
            raise ValueError(
                f"need eps2d > 0, 0 < transmittance_min < 1 and tile >= 1, got {self.eps2d}, "
                f"{self.transmittance_min} and {self.tile}"
            )


def check_inputs(gaussians: Gaussians, cameras: Cameras, pixels: Pixels) -> None:
    """Reject what no renderer can answer for.

    Raises:
        ValueError: as ``check_views``, or Gaussians that are not finite.
    """
    check_views(cameras, pixels)
    for name in ("means", "scales", "opacities", "quats"):
        if getattr(gaussians, name) is None:
            continue
        # One sum instead of a mask: any NaN or infinity survives it, at a fraction of the cost.
        values = getattr(gaussians, name).detach()
        if not torch.isfinite(values.sum(dtype=torch.promote_types(values.dtype, torch.float32))):
            raise ValueError(f"Gaussians hold non-finite {name}; check the network's output before rendering")


def check_views(cameras: Cameras, pixels: Pixels) -> None:
    """Reject what no renderer can answer for.

    Raises:
        ValueError: a camera index or position outside the images, skewed or non-positive intrinsics.
    """
    if (cameras.Ks[:, 0, 1].abs() > 1e-6).any():
        raise ValueError(f"skewed intrinsics are not supported: K[0, 1] = {cameras.Ks[:, 0, 1].tolist()}")
    if (cameras.Ks[:, 0, 0] <= 0).any() or (cameras.Ks[:, 1, 1] <= 0).any():
        raise ValueError(f"focal lengths must be positive, got {cameras.Ks[:, [0, 1], [0, 1]].tolist()}")
    if not torch.isfinite(cameras.viewmats).all() or not torch.isfinite(cameras.Ks).all():
        raise ValueError(f"cameras are not finite: viewmats {cameras.viewmats.tolist()}, Ks {cameras.Ks.tolist()}")
    if len(pixels) == 0:
        return
    low, high = int(pixels.camera.min()), int(pixels.camera.max())
    if low < 0 or high >= len(cameras):
        raise ValueError(f"pixel camera indices span {low}..{high}, but there are {len(cameras)} cameras")
    u, v = pixels.uv.unbind(-1)
    inside = (u >= 0) & (u <= cameras.width) & (v >= 0) & (v <= cameras.height)
    if not inside.all():
        raise ValueError(
            f"{int((~inside).sum())} of {len(pixels)} pixels lie outside {cameras.width} x {cameras.height}, "
            f"first {pixels.uv[~inside][0].tolist()}; drop them before rendering"
        )
