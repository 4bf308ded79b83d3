"""Camera-only semantic 3D occupancy learnt without 3D labels (GSRender); imports no ROS."""

__version__ = "0.1.0"
