"""The Gaussians that stand between voxel features and everything else: images (render) and occupancy (Eq. 7)."""

from dataclasses import dataclass

import torch

from gsrender_core.geometry import quaternion_from_rotation


@dataclass
class Gaussians:
    """N anisotropic Gaussians of one scene in one ego frame (Eq. 6).

    Attributes:
        means: [N, 3] metres.
        scales: [N, 3] standard deviations along the Gaussian's own axes, metres, > 0.
        opacities: [N] in [0, 1].
        logits: [N, K] semantic logits, the "colour" that is splatted.
        quats: [N, 4] wxyz rotations, or None for axis-aligned Gaussians, the paper's choice.
    """

    means: torch.Tensor
    scales: torch.Tensor
    opacities: torch.Tensor
    logits: torch.Tensor
    quats: torch.Tensor | None = None

    def __post_init__(self):
        n = self.means.shape[0]
        if (
            self.means.shape != (n, 3)
            or self.scales.shape != (n, 3)
            or self.opacities.shape != (n,)
            or self.logits.dim() != 2
            or self.logits.shape[0] != n
            or (self.quats is not None and self.quats.shape != (n, 4))
        ):
            raise ValueError(
                "Gaussians disagree in shape: means "
                f"{tuple(self.means.shape)}, scales {tuple(self.scales.shape)}, "
                f"opacities {tuple(self.opacities.shape)}, "
                f"logits {tuple(self.logits.shape)}, quats {None if self.quats is None else tuple(self.quats.shape)}"
            )

    def __len__(self) -> int:
        return self.means.shape[0]

    def select(self, index: torch.Tensor) -> "Gaussians":
        """The Gaussians at an index int64 [M]."""
        quats = None if self.quats is None else self.quats[index]
        return Gaussians(self.means[index], self.scales[index], self.opacities[index], self.logits[index], quats)

    def moved(self, T_dst_src: torch.Tensor) -> "Gaussians":
        """The same Gaussians in another frame: means and rotations change, the rest is shared.

        Args:
            T_dst_src: [4, 4], rigid.
        """
        R = T_dst_src[:3, :3].to(self.means)
        means = self.means @ R.T + T_dst_src[:3, 3].to(self.means)
        q = quaternion_of(R)
        if self.quats is None:
            quats = q.expand(len(self), 4)
        else:
            quats = quaternion_product(q, torch.nn.functional.normalize(self.quats, dim=-1))
        return Gaussians(means, self.scales, self.opacities, self.logits, quats)

    def evidence(self) -> "VoxelEvidence":
        """What Eq. 7 looks at: one Gaussian belongs to one voxel, in the grid's flattened order."""
        best, label = self.logits.max(dim=-1)
        probability = torch.exp(best - torch.logsumexp(self.logits, dim=-1))
        return VoxelEvidence(self.opacities, label.to(torch.uint8), probability)

    def to_occupancy(self, tau: float, free: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Eq. 7: the argmax of a voxel's logits where its opacity reaches ``tau``, else ``free``; as ``VoxelEvidence``.

        One Gaussian belongs to one voxel, in the grid's flattened order.
        """
        return self.evidence().at(tau, free)


@dataclass
class VoxelEvidence:
    """What a read-out has to say of every voxel before the threshold; tensors of one shape.

    Attributes:
        opacity: in [0, 1].
        label: uint8, the likeliest class if the voxel is occupied.
        probability: of that class.
    """

    opacity: torch.Tensor
    label: torch.Tensor
    probability: torch.Tensor

    def view(self, shape: tuple[int, ...]) -> "VoxelEvidence":
        """The same in another shape."""
        return VoxelEvidence(self.opacity.view(shape), self.label.view(shape), self.probability.view(shape))

    def at(self, tau: float, free: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Eq. 7: labels uint8 (``free`` where the opacity stays below ``tau``) and confidence float32.

        The confidence is opacity times probability, 0 where free.
        """
        occupied = self.opacity >= tau
        labels = torch.where(occupied, self.label, torch.full_like(self.label, free))
        confidence = torch.where(occupied, self.opacity * self.probability, torch.zeros_like(self.probability))
        return labels, confidence.float()


def quaternion_of(R: torch.Tensor) -> torch.Tensor:
    """Unit quaternion wxyz [4] of a rotation matrix [3, 3]."""
    return torch.from_numpy(quaternion_from_rotation(R.detach().double().cpu().numpy())).to(R)


def quaternion_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Hamilton product of wxyz quaternions [..., 4]: rotate by ``b``, then by ``a``."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        (
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ),
        dim=-1,
    )
