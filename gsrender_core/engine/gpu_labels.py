"""Labels of a prediction by a Triton kernel: every row of voxel features is read once, no hidden value is written.

It launches with fixed shapes, waits for nothing and allocates nothing, so that a CUDA graph captures it; call it once
before the capture, which compiles it. ``label_rows_reference`` is the slow, readable reference for any device.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from gsrender_core.engine.triton_kernels import FLOATS, WARPS, check, check_axes, kernels_on, power_of_two, tl, triton
from gsrender_core.model.gaussian_head import GaussianHead
from gsrender_core.model.parts import labels_of

TILES = 4  # of rows, that share a program's one read of the weights


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
    with kernels_on(rows.device, "label_rows_reference"):
        if not len(rows):
            return
        features = rows.shape[1]
        hidden = 0 if head.hidden_weight is None else len(head.hidden_weight)
        precision = precision or ("tf32" if rows.dtype == torch.bfloat16 else "ieee")
        sides = [max(16, power_of_two(n)) for n in (features, hidden, len(head.output_bias))]  # tl.dot takes no less
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


def _check_labels(rows, head: HeadWeights, tau, free, outputs) -> None:
    hidden_weight, hidden_bias = head.hidden_weight, head.hidden_bias
    output_weight, output_bias = head.output_weight, head.output_bias
    check_axes("rows", rows, "N, F")
    check_axes("output_weight", output_weight, "1 + K, H or F")
    (count, features), device, single = rows.shape, rows.device, (torch.float32,)
    check("rows", rows, (count, features), FLOATS, device)
    if (hidden_weight is None) != (hidden_bias is None):
        missing = "hidden_weight" if hidden_weight is None else "hidden_bias"
        raise ValueError(f"{missing} alone is None; both or none of the hidden layer's tensors are wanted")
    inputs = features
    if hidden_weight is not None:
        check_axes("hidden_weight", hidden_weight, "H, F")
        inputs = len(hidden_weight)
        check("hidden_weight", hidden_weight, (inputs, features), single, device)
        check("hidden_bias", hidden_bias, (inputs,), single, device)
    values = len(output_weight)
    if not 2 <= values <= 257:
        raise ValueError(f"output_weight has {values} rows; opacity and 1 to 256 classes are wanted, so 2 to 257")
    check("output_weight", output_weight, (values, inputs), single, device)
    check("output_bias", output_bias, (values,), single, device)
    check("tau", tau, (), single, device)
    if not 0 <= free <= 255:
        raise ValueError(f"free is {free}; labels are uint8, so 0 to 255 is wanted")
    for name, output, dtype in zip(("labels", "confidence"), outputs, (torch.uint8, torch.float32), strict=True):
        check(name, output, (count,), (dtype,), device)


if triton is not None:

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
