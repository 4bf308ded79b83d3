"""Pictures of a network's Gaussians: histograms of offsets and scales (Fig. 7, 10), means as points (Fig. 8)."""

import numpy as np

from gsrender_core.classes import CLASS_COLORS, FREE
from gsrender_core.data.frame import Frame
from gsrender_core.data.occ3d_labels import Occ3DLabels, on_grid
from gsrender_core.histogram import Histogram
from gsrender_core.pictures.axes import COLORS
from gsrender_core.pictures.comparison import views
from gsrender_core.pictures.layout import GAP, arrangement, blank, camera_panel, headline, legend, row, titled
from gsrender_core.pictures.plots import Diagram, Series, line_chart, sheet
from gsrender_core.pictures.voxel_view import BACKGROUND, View
from gsrender_core.voxel_grid import VoxelGrid

AXES = ("x (forward)", "y (left)", "z (up)")
_NAMES = {"occupied": "occupied", "lidar_hits": "at LiDAR hits", "all": "all"}
_GROUP_COLORS = {"occupied": COLORS[0], "lidar_hits": COLORS[1], "all": COLORS[6]}
_BINS, _PANEL = 120, (560, 360)
_WIDTH = 1680  # px
_POINT_M = 0.22  # edge of a point's square


def offsets_picture(groups: dict[str, list[Histogram]]) -> np.ndarray:
    """Histograms of the offsets, one panel an axis, dashed lines at half a voxel.

    Args:
        groups: name -> histogram of each axis, in voxels; ``occupied``, ``lidar_hits``, ``all``.

    Returns:
        uint8 [H, W, 3] BGR.
    """
    reach = max([1.0] + [abs(h.quantile(q)) for hs in groups.values() for h in hs for q in (0.005, 0.995)])
    panels = []
    for axis, name in enumerate(AXES):
        title = name
        if "occupied" in groups:
            h = groups["occupied"][axis]
            beyond = 100 * h.share_beyond(0.5)
            title = f"{name}: mean {h.mean:+.2f}, spread {h.std:.2f}, {beyond:.1f} % beyond half"
        diagram = Diagram(title, "offset of the mean from its voxel's centre (voxels)", "share of the Gaussians a bin",
                          _PANEL, rules=(-0.5, 0.5))  # fmt: skip
        panels.append(line_chart(_histograms(groups, axis, -reach, reach), diagram))
    return sheet(panels, 3, "Offsets of the Gaussian means; figures of the occupied ones")


def scales_picture(groups: dict[str, list[Histogram]], opacity: Histogram, tau: float) -> np.ndarray:
    """Histograms of the scales, one panel an axis (metres), and of the opacities with tau. uint8 [H, W, 3] BGR."""
    reach = max([h.quantile(0.999) for hs in groups.values() for h in hs], default=1.0) * 1.1
    panels = []
    for axis, name in enumerate(AXES):
        title = name
        if "occupied" in groups:
            h = groups["occupied"][axis]
            title = f"{name}: mean {h.mean:.2f} m, spread {h.std:.2f} m"
        diagram = Diagram(title, "scale (m)", "share of the Gaussians a bin", _PANEL)
        panels.append(line_chart(_histograms(groups, axis, 0.0, reach), diagram))
    edges, counts = opacity.coarse(50)
    share = np.where(counts > 0, counts / max(1, opacity.count), np.nan)
    series = [Series("", (edges[1:] + edges[:-1]) / 2, share, marks=True)]
    title = f"opacity of all: median {opacity.quantile(0.5):.3f}, dashed line at tau {tau:g}"
    diagram = Diagram(title, "opacity", "share a bin, logarithmic", _PANEL, log_y=True, x_range=(0, 1), rules=(tau,))
    panels.append(line_chart(series, diagram))
    return sheet(panels, 2, "Scales and opacities of the Gaussians; figures of the occupied ones")


def _histograms(groups: dict[str, list[Histogram]], axis: int, low: float, high: float) -> list[Series]:
    series = []
    for name in (n for n in _NAMES if n in groups):
        edges, counts = groups[name][axis].coarse(_BINS, low, high)
        share = counts / max(1, groups[name][axis].count)
        label = f"{_NAMES[name]} ({groups[name][axis].count})"
        series.append(Series(label, edges, share, color=_GROUP_COLORS[name], steps=True))
    return series


def filtered_picture(
    frame: Frame, truth: Occ3DLabels | None, arrays: dict[str, np.ndarray], tau: float, grid: VoxelGrid
) -> np.ndarray:
    """Gaussian means as coloured points from behind: ground truth, filtered by opacity, by opacity and offset (Fig. 8).

    Args:
        frame: its images are shown above.
        truth: drawn as the centres of its voxels, where a camera sees them; None: no such panel.
        arrays: ``opacity`` [V], ``label`` [V], ``means`` [V, 3] m, ``offset`` [V, 3] voxels, in the grid's order.
        tau: least opacity of a Gaussian that is drawn.
        grid: the volume.

    Returns:
        uint8 [H, 1680, 3] BGR. Below each view from behind, the same points from the car's right, standing
        upright, where a shift in height shows.
    """
    by_opacity = arrays["opacity"] >= tau
    by_both = by_opacity & (np.abs(arrays["offset"]) <= 0.5).all(axis=1)
    clouds = {
        f"filtered by opacity ({by_opacity.sum()})": (arrays["means"][by_opacity], arrays["label"][by_opacity]),
        f"by opacity and offset ({by_both.sum()})": (arrays["means"][by_both], arrays["label"][by_both]),
    }
    if truth is not None:
        labels = on_grid(truth, grid)
        seen = np.flatnonzero((labels.semantics != FREE) & (labels.mask_camera != 0))
        centers = grid.centers_ego().reshape(-1, 3)[seen]
        clouds = {f"ground truth, seen ({len(seen)})": (centers, labels.semantics.reshape(-1)[seen])} | clouds
    panel = (_WIDTH - GAP) // len(clouds) - GAP
    behind, _ = views(grid, panel)
    extent_m = max(abs(edge) for edge in (*grid.min_m[:2], *grid.max_m[:2]))
    # Half of the volume's length fills the view: a voxel's shift is then some pixels.
    z = (grid.min_m[2] + grid.max_m[2]) / 2
    height = round(panel / extent_m * (grid.max_m[2] - grid.min_m[2] + 1))
    beside = View((0.0, -3 * extent_m, z), (0.0, 0.0, z), (panel, height), span_m=extent_m)
    rows = [headline(f"{frame.scene}   {frame.token or frame.stamp_ns}   tau {tau:g}", _WIDTH)]
    order = [index for indices in arrangement(frame.camera_names) for index in indices if index is not None][:6]
    width = (_WIDTH - GAP) // max(3, len(order)) - GAP
    rows.append(row([camera_panel(frame, index, width) for index in order], _WIDTH))
    drawn = [titled(render_points(p, CLASS_COLORS[c], behind), name) for name, (p, c) in clouds.items()]
    slices = []
    for points, label in clouds.values():
        near = np.abs(points[:, 1]) < 4.0
        slices.append(
            titled(render_points(points[near], CLASS_COLORS[label[near]], beside), "from the right, |y| < 4 m")
        )
    present = set(np.unique(np.concatenate([label for _, label in clouds.values()])).tolist())
    rows += [row(drawn, _WIDTH), row(slices, _WIDTH), row([legend(_WIDTH - 2 * GAP, 3, present)], _WIDTH)]
    return np.ascontiguousarray(np.concatenate([*rows, blank(GAP, _WIDTH)])[:, :, ::-1])


def render_points(points_ego: np.ndarray, colors: np.ndarray, view: View) -> np.ndarray:
    """Draw points as small squares, the nearer over the farther, darker the lower they lie.

    Args:
        points_ego: [N, 3] metres.
        colors: uint8 [N, 3] RGB.
        view: from where.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    width, height = view.size
    image = np.empty((height, width, 3), dtype=np.uint8)
    image[:] = BACKGROUND
    if len(points_ego) == 0:
        return image
    uv, depth = view.project(points_ego)
    order = np.argsort(-depth)
    order = order[depth[order] > 0.1]
    uv, depth, points = uv[order], depth[order], points_ego[order]
    low, high = np.quantile(points_ego[:, 2], [0.02, 0.98])
    light = 0.72 + 0.28 * np.clip((points[:, 2] - low) / max(high - low, 1e-6), 0, 1)
    shaded = (colors[order] * light[:, None]).astype(np.uint8)
    metre_px = view.focal_px / (depth if view.fov_deg is not None else np.ones_like(depth))
    size = np.clip(np.round(metre_px * _POINT_M), 1, 9).astype(int)
    # Squares of one size at once, far sizes first: a perspective view's nearer points are the larger ones.
    for edge in np.unique(size):
        mine = size == edge
        corner = np.floor(uv[mine]).astype(int) - (edge - 1) // 2
        for du in range(edge):
            for dv in range(edge):
                u, v = corner[:, 0] + du, corner[:, 1] + dv
                inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
                image[v[inside], u[inside]] = shaded[mine][inside]
    return image
