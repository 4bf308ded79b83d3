"""A synthetic driving world, written in the nuScenes v1.0 schema and read back like any other data set."""

from gsrender_core.world.writer import generate_world

__all__ = ["generate_world"]
