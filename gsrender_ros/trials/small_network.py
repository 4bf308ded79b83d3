"""An untrained network of the smallest useful size: what it predicts is meaningless, how it runs is not."""

from pathlib import Path


def write_small_network(path: Path, image_size: tuple[int, int]) -> None:
    """Write a checkpoint for images of ``image_size`` (width, height), multiples of 32; the same every time."""
    import torch

    from gsrender_core.checkpoint import save_checkpoint
    from gsrender_core.config import BackboneConfig, ModelConfig
    from gsrender_core.model.gsrender import GSRender
    from gsrender_core.voxel_grid import VoxelGrid

    torch.manual_seed(0)
    grid = VoxelGrid((-16.0, -16.0, -1.0), 1.6, (20, 20, 4))
    config = ModelConfig(image_size=image_size, grid=grid, backbone=BackboneConfig(pretrained=False))
    save_checkpoint(path, GSRender(config, load_pretrained=False), {})
