"""Occ3D's ``annotations.json``: its splits, and where the labels of each keyframe lie."""

from collections.abc import Sequence
from pathlib import Path

from gsrender_core.data.json_rows import iterate_members

FILE = "annotations.json"
SPLITS = ("train", "val")


class Occ3DAnnotations:
    """The parts of ``annotations.json`` that are not in nuScenes' own tables.

    Published beside ``gts/``: ``train_split`` and ``val_split`` (scene names) and
    ``scene_infos[scene][sample token]["gt_path"]``. The file of all nuScenes has some hundred megabytes (it repeats
    every camera's calibration); it is streamed a scene at a time, and only when something of it is asked for.
    """

    def __init__(self, root: Path):
        self.path = Path(root) / FILE
        self._gt_paths: dict[str, str | None] | None = None

    def present(self) -> bool:
        """Whether the data set has the file."""
        return self.path.is_file()

    def split(self, name: str) -> list[str]:
        """Scene names of a split, ``train`` or ``val``.

        Raises:
            FileNotFoundError: no annotations.json.
            ValueError: an unknown split, a broken file, or one without that list.
        """
        if name not in SPLITS:
            raise ValueError(f"split {name!r} is not one of {', '.join(SPLITS)}")
        if not self.present():
            raise FileNotFoundError(
                f"split {name!r} is read from Occ3D's {self.path}, which does not exist; put it beside gts/, or name "
                "the scenes instead (--scenes)"
            )
        for (key, *_), value in iterate_members(self.path, descend="scene_infos"):
            if key == f"{name}_split":
                if not isinstance(value, list) or not all(isinstance(scene, str) for scene in value):
                    raise ValueError(f"{self.path}: {key} is not a list of scene names")
                return value
        raise ValueError(f"{self.path} has no {name}_split; download it again, or name the scenes (--scenes)")

    def gt_path(self, token: str) -> str | None:
        """Path of a sample's labels.npz relative to the data set, or None where the file lists none for it.

        Raises:
            ValueError: a broken file.
        """
        if self._gt_paths is None:
            self._gt_paths = {}
            for keys, infos in iterate_members(self.path, descend="scene_infos") if self.present() else ():
                if keys[0] != "scene_infos":
                    continue
                if not isinstance(infos, dict) or not all(isinstance(info, dict) for info in infos.values()):
                    raise ValueError(f"{self.path}: scene_infos of {keys[1]} is not an object of sample tokens")
                self._gt_paths |= {sample: info.get("gt_path") for sample, info in infos.items()}
        return self._gt_paths.get(token)


def scenes_of_split(
    annotations: Occ3DAnnotations, split: str, known: Sequence[str], wanted: Sequence[str] | None = None
) -> list[str]:
    """Scenes of a split that the tables have (of v1.0-mini few), in the tables' order; of those only the ``wanted``.

    Raises:
        FileNotFoundError, ValueError: as ``Occ3DAnnotations.split``; a wanted scene is not in the split; none is left.
    """
    names = set(annotations.split(split))
    outside = sorted(set(wanted or ()) - names)
    if outside:
        raise ValueError(f"scenes {outside} are not in the {split} split of {annotations.path}; leave out one of both")
    kept = [scene for scene in known if scene in names and (wanted is None or scene in wanted)]
    if not kept:
        raise ValueError(f"none of the {len(known)} scenes of the tables is in the {split} split of {annotations.path}")
    return kept
