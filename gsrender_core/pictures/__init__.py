"""Pictures of occupancy: voxels as shaded cubes, and sheets of cameras, prediction and ground truth."""

from gsrender_core.pictures.occupancy_picture import occupancy_picture
from gsrender_core.pictures.voxel_view import BIRDS_EYE, THIRD_PERSON, View, render_voxels

__all__ = ["BIRDS_EYE", "THIRD_PERSON", "View", "occupancy_picture", "render_voxels"]
