"""The lift and the labels of a prediction as Triton kernels: of a point its voxel's number alone reaches memory, of a
hidden unit nothing.

All launch with fixed shapes, wait for nothing and allocate nothing, so that a CUDA graph captures them; call each once
before the capture, which compiles it. Each has a slow, readable reference of the same arguments for any device.
"""

import contextlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from gsrender_core.model.gaussian_head import GaussianHead
from gsrender_core.model.parts import labels_of

try:
    import triton
    import triton.language as tl
except ImportError:  # a machine without a GPU needs none
    triton = None

FLOATS = (torch.float32, torch.bfloat16)
# Of a lifting program: numbers of a tile of rows (cells x features; four a thread, one vectorised atomic), and depth
# bins that it walks. More bins read the rows less often and merge longer runs; fewer make more programs. 22 are a
# quarter of 88 bins.
TILE, BINS = 512, 22
# Of a labelling program: tiles of rows that share one read of the weights.
TILES = 4
WARPS = 4  # a warp group, as the matrix units of sm_90 want
POINTS = 512  # of a program that places points


def serve(device: torch.device) -> bool:
    """Whether the kernels run on a device: Triton is there, and the device is a GPU or all is interpreted."""
    return triton is not None and (device.type == "cuda" or not isinstance(_lift_kernel, triton.JITFunction))


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
    _check("ego_from_pixel", ego_from_pixel, (C, 3, 3), single, device)
    _check("origins", origins, (C, 3), single, device)
    _check("voxel", voxel, (C, D, h * w), (torch.int32,), device)
    lattice = (view.bin_centers_m, view.low, view.size)
    for name, tensor, count in zip(("bin_centers_m", "low", "size"), lattice, (D, 3, 3), strict=True):
        _check(name, tensor, (count,), single, device)
    with _kernels_on(device, "parts.voxels_of_rays"):
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
    with _kernels_on(volume.device, "lift_reference"):
        volume.zero_()
        if not (voxel.numel() and volume.numel()):
            return
        block = _power_of_two(features)
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


@dataclass(frozen=True)
class HeadWeights:
    """What labels need of a ``GaussianHead``, float32; F features, H hidden units, K <= 256 classes.

    ``hidden_weight`` [H, F] and ``hidden_bias`` [H]: both None for a head of one layer. ``output_weight``
    [1 + K, H or F] and ``output_bias`` [1 + K]: opacity first.
    """

    hidden_weight: torch.Tensor | None
    hidden_bias: torch.Tensor | None
    output_weight: torch.Tensor
    output_bias: torch.Tensor

    @classmethod
    def of(cls, head: GaussianHead) -> "HeadWeights":
        hidden = (None, None) if head.linear else (head.hidden.weight, head.hidden.bias)
        wanted = slice(6, 7 + head.num_classes)
        return cls(*hidden, head.output.weight[wanted], head.output.bias[wanted])


def label_rows(
    rows: torch.Tensor,
    head: HeadWeights,
    tau: torch.Tensor,
    free: int,
    outputs: tuple[torch.Tensor, torch.Tensor],
    precision: str | None = None,
) -> None:
    """Labels by Eq. 7 of GSRender of a ``GaussianHead``'s opacity and class logits, each row read once.

    out = W2 softplus(W1 x + b1) + b2, or W2 x + b2 of a head of one layer; opacity = sigmoid(out[0]). Where it reaches
    ``tau``, the label is the likeliest class and the confidence opacity times its probability; elsewhere, also where
    opacity is NaN, ``free`` and 0.

    Args:
        rows: float32 or bfloat16 [N, F].
        head: its weights.
        tau: float32 [], on the device, so that a replay may change it.
        free: 0 to 255.
        outputs: labels uint8 [N] and confidence float32 [N]; overwritten.
        precision: of the products: "ieee" (float32), "tf32x3" or "tf32" (11 bits of mantissa, on the matrix units;
            float32 sums). None is tf32 for bfloat16 rows, which it represents exactly and whose own error is larger
            than that of the rounded weights, and ieee for float32 rows, whose reader wants float32.

    Raises:
        ValueError: a tensor of another shape, dtype, layout or device, or another value.
        RuntimeError: Triton is missing.
    """
    _check_labels(rows, head, tau, free, outputs)
    if precision not in (None, "ieee", "tf32", "tf32x3"):
        raise ValueError(f"precision is {precision!r}; 'ieee', 'tf32', 'tf32x3' or None is wanted")
    with _kernels_on(rows.device, "label_rows_reference"):
        if not len(rows):
            return
        features = rows.shape[1]
        hidden = 0 if head.hidden_weight is None else len(head.hidden_weight)
        precision = precision or ("tf32" if rows.dtype == torch.bfloat16 else "ieee")
        sides = [max(16, _power_of_two(n)) for n in (features, hidden, len(head.output_bias))]  # tl.dot takes no less
        block = 32 if precision == "ieee" else 64  # without spills; matrix units of sm_90 take 64 rows at a time
        _label_kernel[(triton.cdiv(len(rows), block * TILES),)](
            *(rows, head.hidden_weight, head.hidden_bias, head.output_weight, head.output_bias, tau, *outputs),
            *(len(rows), features, hidden, len(head.output_bias) - 1, free),
            ROWS=block, TILES=TILES, FEATURES=sides[0], HIDDEN=sides[1], OUTPUTS=sides[2],
            TWO_LAYERS=hidden > 0, PRECISION=precision, num_warps=WARPS,
        )  # fmt: skip


def label_rows_reference(
    rows: torch.Tensor, head: HeadWeights, tau: torch.Tensor, free: int, outputs: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """``label_rows`` in float32 torch, on any device."""
    _check_labels(rows, head, tau, free, outputs)
    x = rows.float()
    hidden = x if head.hidden_weight is None else F.softplus(F.linear(x, head.hidden_weight, head.hidden_bias))
    out = F.linear(hidden, head.output_weight, head.output_bias)
    for output, values in zip(outputs, labels_of(out[:, 0], out[:, 1:], tau, free), strict=True):
        output.copy_(values)


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

    @triton.jit
    def _label_kernel(
        rows,
        hidden_weight,
        hidden_bias,
        output_weight,
        output_bias,
        tau,
        labels,
        confidence,
        count,
        features,
        hidden_units,
        classes,
        free,
        ROWS: tl.constexpr,
        TILES: tl.constexpr,
        FEATURES: tl.constexpr,
        HIDDEN: tl.constexpr,
        OUTPUTS: tl.constexpr,
        TWO_LAYERS: tl.constexpr,
        PRECISION: tl.constexpr,
    ):
        """One program: TILES tiles of ROWS rows. Padding of every tile is zero."""
        feature = tl.arange(0, FEATURES)
        unit = tl.arange(0, HIDDEN)
        output = tl.arange(0, OUTPUTS)
        is_feature, is_unit, is_output = feature < features, unit < hidden_units, output < classes + 1
        is_class = (output > 0) & is_output
        b2 = tl.load(output_bias + output, mask=is_output, other=0)
        if TWO_LAYERS:  # weights are read transposed, as the products take them
            place, real = unit[None, :] * features + feature[:, None], is_unit[None, :] & is_feature[:, None]
            W1 = tl.load(hidden_weight + place, mask=real, other=0)
            b1 = tl.load(hidden_bias + unit, mask=is_unit, other=0)
            place, real = output[None, :] * hidden_units + unit[:, None], is_output[None, :] & is_unit[:, None]
            W2 = tl.load(output_weight + place, mask=real, other=0)
        else:
            place, real = output[None, :] * features + feature[:, None], is_output[None, :] & is_feature[:, None]
            W2 = tl.load(output_weight + place, mask=real, other=0)
        least = tl.load(tau)
        for tile in range(TILES):
            row = (tl.program_id(0) * TILES + tile) * ROWS + tl.arange(0, ROWS)
            is_row = row < count
            source = rows + row.to(tl.int64)[:, None] * features + feature[None, :]
            x = tl.load(source, mask=is_row[:, None] & is_feature[None, :], other=0).to(tl.float32)
            if TWO_LAYERS:
                h = tl.dot(x, W1, input_precision=PRECISION) + b1[None, :]
                # Softplus that cannot overflow. Torch's threshold (h itself above 20) is below float32's resolution.
                h = tl.maximum(h, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(h)))
                h = tl.where(is_unit[None, :], h, 0.0)  # infinite features make NaN of padding
                out = tl.dot(h, W2, input_precision=PRECISION) + b2[None, :]
            else:
                out = tl.dot(x, W2, input_precision=PRECISION) + b2[None, :]
            opacity = tl.sigmoid(tl.sum(tl.where(output[None, :] == 0, out, 0.0), axis=1))
            logits = tl.where(is_class[None, :], out, float("-inf"))
            top = tl.max(logits, axis=1)
            best = 1.0 / tl.sum(tl.exp(logits - top[:, None]), axis=1)
            # The first of equals. Logits of NaN equal nothing: the last class then, whose confidence is NaN.
            where = tl.min(tl.where(logits == top[:, None], output[None, :], OUTPUTS), axis=1)
            label = tl.minimum(where, classes) - 1
            occupied = opacity >= least  # false for NaN
            tl.store(labels + row, tl.where(occupied, label, free).to(tl.uint8), mask=is_row)
            tl.store(confidence + row, tl.where(occupied, opacity * best, 0.0), mask=is_row)


def _check_lift(voxel, rows, weights, volume) -> tuple[tuple[int, int, int], int]:
    """((C, D, N), F), or an error."""
    for name, tensor, letters in (("voxel", voxel, "C, D, N"), ("rows", rows, "C, N, F"), ("volume", volume, "V, F")):
        _check_axes(name, tensor, letters)
    (C, D, N), features, device = voxel.shape, rows.shape[2], voxel.device
    _check("voxel", voxel, (C, D, N), (torch.int32,), device)
    _check("rows", rows, (C, N, features), FLOATS, device)
    _check("weights", weights, (C, D, N), FLOATS, device)
    _check("volume", volume, (len(volume), features), (torch.float32,), device)
    return (C, D, N), features


def _check_labels(rows, head: HeadWeights, tau, free, outputs) -> None:
    hidden_weight, hidden_bias = head.hidden_weight, head.hidden_bias
    output_weight, output_bias = head.output_weight, head.output_bias
    _check_axes("rows", rows, "N, F")
    _check_axes("output_weight", output_weight, "1 + K, H or F")
    (count, features), device, single = rows.shape, rows.device, (torch.float32,)
    _check("rows", rows, (count, features), FLOATS, device)
    if (hidden_weight is None) != (hidden_bias is None):
        missing = "hidden_weight" if hidden_weight is None else "hidden_bias"
        raise ValueError(f"{missing} alone is None; both or none of the hidden layer's tensors are wanted")
    inputs = features
    if hidden_weight is not None:
        _check_axes("hidden_weight", hidden_weight, "H, F")
        inputs = len(hidden_weight)
        _check("hidden_weight", hidden_weight, (inputs, features), single, device)
        _check("hidden_bias", hidden_bias, (inputs,), single, device)
    values = len(output_weight)
    if not 2 <= values <= 257:
        raise ValueError(f"output_weight has {values} rows; opacity and 1 to 256 classes are wanted, so 2 to 257")
    _check("output_weight", output_weight, (values, inputs), single, device)
    _check("output_bias", output_bias, (values,), single, device)
    _check("tau", tau, (), single, device)
    if not 0 <= free <= 255:
        raise ValueError(f"free is {free}; labels are uint8, so 0 to 255 is wanted")
    for name, output, dtype in zip(("labels", "confidence"), outputs, (torch.uint8, torch.float32), strict=True):
        _check(name, output, (count,), (dtype,), device)


def _check_axes(name: str, tensor: torch.Tensor, letters: str) -> None:
    if tensor.ndim != letters.count(",") + 1:
        raise ValueError(f"{name} has shape {list(tensor.shape)}; [{letters}] is wanted")


def _check(name: str, tensor: torch.Tensor, shape: tuple[int, ...], dtypes, device: torch.device) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {list(tensor.shape)}; {list(shape)} is wanted")
    if tensor.dtype not in dtypes:
        raise ValueError(f"{name} is {tensor.dtype}; {' or '.join(map(str, dtypes))} is wanted")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} has strides {list(tensor.stride())}; contiguous memory is wanted")
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}; {device}, where the other tensors are, is wanted")


def _kernels_on(device: torch.device, reference: str):
    """The device made current, as Triton launches there; an error where there are no kernels for it."""
    if triton is None:
        raise RuntimeError(f"Triton cannot be imported: install it, or call {reference}")
    if not serve(device):
        raise ValueError(f"The tensors are on {device}; a CUDA device is wanted: move them, or call {reference}")
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _power_of_two(number: int) -> int:
    """The least power of two that is not below a number."""
    return 1 << max(0, number - 1).bit_length()
