"""Pictures: voxels as shaded cubes, sheets of cameras and grids, comparisons of predictions, diagrams."""

from gsrender_core.pictures.comparison import comparison_picture
from gsrender_core.pictures.occupancy_picture import occupancy_picture
from gsrender_core.pictures.plots import Diagram, Series, bar_chart, line_chart, sheet
from gsrender_core.pictures.voxel_view import BIRDS_EYE, THIRD_PERSON, View, render_voxels

__all__ = [
    "BIRDS_EYE",
    "THIRD_PERSON",
    "Diagram",
    "Series",
    "View",
    "bar_chart",
    "comparison_picture",
    "line_chart",
    "occupancy_picture",
    "render_voxels",
    "sheet",
]
