"""The lift of a prediction as Triton kernels: of a point its voxel's number alone reaches memory.

They launch with fixed shapes, wait for nothing and allocate nothing, so that a CUDA graph captures them; call each once
before the capture, which compiles it. Each has a slow, readable reference of the same arguments for any device.
"""

import torch

from gsrender_core.engine.triton_kernels import FLOATS, WARPS, check, check_axes, kernels_on, power_of_two, tl, triton

# Of a lifting program: numbers of a tile of rows (cells x features; four a thread, one vectorised atomic), and depth
# bins that it walks. More bins read the rows less often and merge longer runs; fewer make more programs. 22 are a
# quarter of 88 bins.
TILE, BINS = 512, 22
POINTS = 512  # of a program that places points


def place(
    view, cells: tuple[int, int], ego_from_pixel: torch.Tensor, origins: torch.Tensor, voxel: torch.Tensor
) -> None:
    """The voxel of every point of the lift; the reference is ``parts.voxels_of_rays``.

    Args:
        view: the ``LiftSplat``; depth bins, stride and lattice are its own.
        cells: (h, w) of the feature map.
        ego_from_pixel: float32 [C, 3, 3], homogeneous pixels to ego directions.
        origins: float32 [C, 3], cameras' positions, m.
        voxel: int32 [C, D, h * w]; overwritten, -1 outside the grid.

    Raises:
        ValueError: a tensor of another shape, dtype, layout or device.
        RuntimeError: Triton is missing.
    """
    C, D, (h, w), device, single = len(origins), len(view.bin_centers_m), cells, voxel.device, (torch.float32,)
    check("ego_from_pixel", ego_from_pixel, (C, 3, 3), single, device)
    check("origins", origins, (C, 3), single, device)
    check("voxel", voxel, (C, D, h * w), (torch.int32,), device)
    lattice = (view.bin_centers_m, view.low, view.size)
    for name, tensor, count in zip(("bin_centers_m", "low", "size"), lattice, (D, 3, 3), strict=True):
        check(name, tensor, (count,), single, device)
    with kernels_on(device, "parts.voxels_of_rays"):
        if voxel.numel():
            _place_kernel[(triton.cdiv(h * w, POINTS), C * D)](
                ego_from_pixel, origins, *lattice, voxel, D, h * w, w, float(view.stride), *view.shape, POINTS=POINTS
            )


def lift(voxel: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor, volume: torch.Tensor) -> None:
    """Sum every row, times the probability of each depth bin, into the voxel of that bin.

    "Splat" of Philion & Fidler, "Lift, Splat, Shoot", 2020. Float32 atomics in no fixed order: two runs differ by
    rounding.

    Args:
        voxel: int32 [C, D, N], flat voxel index of a cell at a depth bin, -1 outside the grid; below V, which is not
            checked since that would wait for the GPU.
        rows: float32 or bfloat16 [C, N, F], features of N cells a camera.
        weights: float32 or bfloat16 [C, D, N], probabilities.
        volume: float32 [V, F]; overwritten.

    Raises:
        ValueError: a tensor of another shape, dtype, layout or device.
        RuntimeError: Triton is missing.
    """
    (C, D, N), features = _check_lift(voxel, rows, weights, volume)
    with kernels_on(volume.device, "lift_reference"):
        volume.zero_()
        if not (voxel.numel() and volume.numel()):
            return
        block = power_of_two(features)
        cells = max(1, TILE // block)
        grid = (triton.cdiv(N, cells), triton.cdiv(D, BINS), C)
        _lift_kernel[grid](
            voxel, rows, weights, volume, D, N, features, BINS=BINS, CELLS=cells, FEATURES=block, num_warps=WARPS
        )


def lift_reference(voxel: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor, volume: torch.Tensor) -> None:
    """``lift`` in torch, on any device: a list of all points inside the grid, then one sum."""
    _check_lift(voxel, rows, weights, volume)
    camera, depth_bin, cell = torch.nonzero(voxel >= 0, as_tuple=True)
    points = rows[camera, cell].float() * weights[camera, depth_bin, cell].float()[:, None]
    volume.zero_().index_add_(0, voxel[camera, depth_bin, cell], points)


def _check_lift(voxel, rows, weights, volume) -> tuple[tuple[int, int, int], int]:
    """((C, D, N), F), or an error."""
    for name, tensor, letters in (("voxel", voxel, "C, D, N"), ("rows", rows, "C, N, F"), ("volume", volume, "V, F")):
        check_axes(name, tensor, letters)
    (C, D, N), features, device = voxel.shape, rows.shape[2], voxel.device
    check("voxel", voxel, (C, D, N), (torch.int32,), device)
    check("rows", rows, (C, N, features), FLOATS, device)
    check("weights", weights, (C, D, N), FLOATS, device)
    check("volume", volume, (len(volume), features), (torch.float32,), device)
    return (C, D, N), features


if triton is not None:

    @triton.jit
    def _place_kernel(
        ego_from_pixel, origins, bins_m, low, size, voxel, bins, cells, width, stride, X, Y, Z, POINTS: tl.constexpr
    ):
        """One program: POINTS cells of a camera at one depth bin."""
        plane = tl.program_id(1)
        camera, cell = plane // bins, tl.program_id(0) * POINTS + tl.arange(0, POINTS)
        depth = tl.load(bins_m + plane % bins)
        u, v = ((cell % width).to(tl.float32) + 0.5) * stride, ((cell // width).to(tl.float32) + 0.5) * stride
        flat, inside = tl.zeros([POINTS], tl.int32), cell < cells
        for axis in tl.static_range(3):
            R, count = ego_from_pixel + 9 * camera + 3 * axis, (X, Y, Z)[axis]
            ray = tl.load(R) * u + tl.load(R + 1) * v + tl.load(R + 2)
            at = ray * depth + tl.load(origins + 3 * camera + axis) - tl.load(low + axis)
            at = tl.floor(at / tl.load(size + axis))
            # Compared before the conversion: far points and NaN are no integers.
            here = (at >= 0) & (at < count)
            flat = flat * count + tl.where(here, at, 0.0).to(tl.int32)
            inside = inside & here
        place = plane.to(tl.int64) * cells + cell
        tl.store(voxel + place, tl.where(inside, flat, -1), mask=cell < cells)

    @triton.jit
    def _lift_kernel(
        voxel,
        rows,
        weights,
        volume,
        bins,
        cells,
        features,
        BINS: tl.constexpr,
        CELLS: tl.constexpr,
        FEATURES: tl.constexpr,
    ):
        """One program: CELLS cells of a camera, at BINS depth bins."""
        cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
        first = tl.program_id(1) * BINS
        camera = tl.program_id(2).to(tl.int64)
        feature = tl.arange(0, FEATURES)
        is_cell, is_feature = cell < cells, feature < features
        place = (camera * cells + cell)[:, None] * features + feature[None, :]
        row = tl.load(rows + place, mask=is_cell[:, None] & is_feature[None, :], other=0).to(tl.float32)
        # Neighbouring bins of a ray often share a voxel. A row is the same at all of them, so that a run of bins is
        # one atomic of the summed weight.
        run = tl.full([CELLS], -1, tl.int32)
        total = tl.zeros([CELLS], tl.float32)
        last = tl.minimum(first + BINS, bins) - 1
        point = (camera * bins + first) * cells + cell
        v = tl.load(voxel + point, mask=is_cell, other=-1)
        weight = tl.load(weights + point, mask=is_cell, other=0)
        for depth_bin in range(first, last + 1):
            # Before the atomics, past which no compiler moves a load: waiting and adding overlap.
            point = (camera * bins + tl.minimum(depth_bin + 1, last)) * cells + cell
            next_v = tl.load(voxel + point, mask=is_cell, other=-1)
            next_weight = tl.load(weights + point, mask=is_cell, other=0)
            ends = (v != run) & (run >= 0)
            target = volume + run.to(tl.int64)[:, None] * features + feature[None, :]
            # Relaxed: the default orders every atomic against all of memory, which nobody needs here.
            tl.atomic_add(target, row * total[:, None], mask=ends[:, None] & is_feature[None, :], sem="relaxed")
            total = tl.where(v == run, total, 0.0) + weight.to(tl.float32)
            run, v, weight = v, next_v, next_weight
        target = volume + run.to(tl.int64)[:, None] * features + feature[None, :]
        tl.atomic_add(target, row * total[:, None], mask=(run >= 0)[:, None] & is_feature[None, :], sem="relaxed")
