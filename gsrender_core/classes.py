"""The one table of semantic classes: Occ3D-nuScenes ids, names, colours, and what follows from them."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SemanticClass:
    """One Occ3D class.

    ``voxel_count`` is the number of voxels that carry the class in the Occ3D-nuScenes training
    split, as published with RenderOcc; it feeds the class-balance weights of Eq. 12.
    """

    id: int
    name: str
    color: tuple[int, int, int]
    dynamic: bool
    voxel_count: int


CLASSES: tuple[SemanticClass, ...] = (
    SemanticClass(0, "others", (120, 120, 120), False, 1163161),
    SemanticClass(1, "barrier", (112, 128, 144), False, 2309034),
    SemanticClass(2, "bicycle", (220, 20, 60), True, 188743),
    SemanticClass(3, "bus", (255, 127, 80), True, 2997643),
    SemanticClass(4, "car", (255, 158, 0), True, 20317180),
    SemanticClass(5, "construction_vehicle", (233, 150, 70), True, 852476),
    SemanticClass(6, "motorcycle", (255, 61, 99), True, 243808),
    SemanticClass(7, "pedestrian", (0, 0, 230), True, 2457947),
    SemanticClass(8, "traffic_cone", (47, 79, 79), False, 497017),
    SemanticClass(9, "trailer", (255, 140, 0), True, 2731022),
    SemanticClass(10, "truck", (255, 99, 71), True, 7224789),
    SemanticClass(11, "driveable_surface", (0, 207, 191), False, 214411435),
    SemanticClass(12, "other_flat", (175, 0, 75), False, 5565043),
    SemanticClass(13, "sidewalk", (75, 0, 75), False, 63191967),
    SemanticClass(14, "terrain", (112, 180, 60), False, 76098082),
    SemanticClass(15, "manmade", (222, 184, 135), False, 128860031),
    SemanticClass(16, "vegetation", (0, 175, 0), False, 141625221),
)

NUM_CLASSES = len(CLASSES)
FREE = NUM_CLASSES  # id 17 in Occ3D's labels: observed and empty
IGNORE = 255  # a LiDAR point without a usable class: keeps its depth, carries no semantic loss
CLASS_NAMES: tuple[str, ...] = tuple(c.name for c in CLASSES)
CLASS_COLORS = np.array([c.color for c in CLASSES], dtype=np.uint8)  # [K, 3] RGB
DYNAMIC_IDS: tuple[int, ...] = tuple(c.id for c in CLASSES if c.dynamic)
FLAT_IDS: tuple[int, ...] = (11, 12, 13, 14)  # driveable_surface, other_flat, sidewalk, terrain
# RenderOcc's own list, kept to reproduce it: it holds barrier and misses the two-wheelers.
RENDEROCC_DYNAMIC_IDS: tuple[int, ...] = (0, 1, 3, 4, 5, 7, 9, 10)

# nuScenes-lidarseg's 32 category names -> our class name. None: noise and the ego vehicle, ignored
# unless parity with RenderOcc is asked for (which supervises them as "others").
LIDARSEG_NAME_TO_CLASS: dict[str, str | None] = {
    "noise": None,
    "animal": "others",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.personal_mobility": "others",
    "human.pedestrian.police_officer": "pedestrian",
    "human.pedestrian.stroller": "others",
    "human.pedestrian.wheelchair": "others",
    "movable_object.barrier": "barrier",
    "movable_object.debris": "others",
    "movable_object.pushable_pullable": "others",
    "movable_object.trafficcone": "traffic_cone",
    "static_object.bicycle_rack": "others",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.emergency.ambulance": "others",
    "vehicle.emergency.police": "others",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
    "flat.driveable_surface": "driveable_surface",
    "flat.other": "other_flat",
    "flat.sidewalk": "sidewalk",
    "flat.terrain": "terrain",
    "static.manmade": "manmade",
    "static.other": "others",
    "static.vegetation": "vegetation",
    "vehicle.ego": None,
}
# Index of a name above = its lidarseg id in the published nuScenes-lidarseg.
LIDARSEG_NAMES: tuple[str, ...] = tuple(LIDARSEG_NAME_TO_CLASS)


def class_id(name: str) -> int:
    """Return the Occ3D id of a class name.

    Raises:
        ValueError: the name is not one of the 17 classes.
    """
    if name not in CLASS_NAMES:
        raise ValueError(f"unknown class {name!r}; known: {', '.join(CLASS_NAMES)}")
    return CLASS_NAMES.index(name)


def lidarseg_lookup(names: dict[int, str] | None = None, keep_ignored_as_others: bool = False) -> np.ndarray:
    """Return a uint8 table [256]: lidarseg id -> Occ3D class id, or ``IGNORE``.

    Args:
        names: the data set's own ``{lidarseg id: category name}`` (nuScenes' ``category.json``
            ``index``); default the published 32 ids.
        keep_ignored_as_others: RenderOcc's behaviour for noise and the ego vehicle.

    Raises:
        ValueError: a category name that nuScenes-lidarseg does not know.
    """
    table = np.full(256, IGNORE, dtype=np.uint8)
    for index, name in (dict(enumerate(LIDARSEG_NAMES)) if names is None else names).items():
        if name not in LIDARSEG_NAME_TO_CLASS:
            raise ValueError(f"lidarseg category {name!r} (id {index}) is unknown; extend LIDARSEG_NAME_TO_CLASS")
        target = LIDARSEG_NAME_TO_CLASS[name]
        if target is not None:
            table[index] = class_id(target)
        elif keep_ignored_as_others:
            table[index] = class_id("others")
    return table


def balance_weights(counts: np.ndarray | None = None) -> np.ndarray:
    """Class-balance weights beta of Eq. 12: ``1 / ln(count + 0.001)``, float32 [K].

    Args:
        counts: voxels or labels a class [K]; default Occ3D-nuScenes' counts (RenderOcc).
    """
    if counts is None:
        counts = np.array([c.voxel_count for c in CLASSES])
    counts = np.maximum(np.asarray(counts, dtype=np.float64), 10.0)  # ln must stay well above 0
    return (1.0 / np.log(counts + 0.001)).astype(np.float32)
