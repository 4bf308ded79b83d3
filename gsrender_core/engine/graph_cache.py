"""Graphs that took seconds to make, kept in the user's cache folder under everything that they depend on."""

import contextlib
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

import gsrender_core.model
from gsrender_core.cache_folder import cache_folder
from gsrender_core.config import to_dict
from gsrender_core.model.gsrender import GSRender

logger = logging.getLogger(__name__)

KEPT = 4  # graphs of so many networks stay


def graph_key(model: GSRender, maker: str) -> str:
    """A digest of a network's configuration, weights and code, and of what makes the graph (name and version)."""
    digest = hashlib.sha256(json.dumps([maker, torch.__version__, to_dict(model.config)]).encode())
    for path in sorted(Path(gsrender_core.model.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def cached_graphs(key: str, read: Callable[[Path], object], make: Callable[[], dict]) -> dict:
    """OpenVINO graphs by name: read from the cache, or made and put there.

    A cache that cannot be written or read costs time, nothing else.
    """
    folder = cache_folder() / "graphs" / key
    if folder.is_dir():
        try:
            graphs = {path.stem: read(path) for path in sorted(folder.glob("*.xml"))}
            folder.touch()
            if graphs:
                return graphs
        except (RuntimeError, OSError) as error:
            logger.warning("%s cannot be read (%s): its graphs are made again", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
    graphs = make()
    try:
        _keep(folder, graphs)
    except (OSError, RuntimeError) as error:
        logger.warning("graphs are not kept for the next start: %s", error)
    return graphs


def _keep(folder: Path, graphs: dict) -> None:
    import openvino

    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix="partial-", dir=folder.parent))
    try:
        for name, graph in graphs.items():
            openvino.save_model(graph, partial / f"{name}.xml", compress_to_fp16=False)
        with contextlib.suppress(OSError):  # another process was faster: the same graphs
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in sorted(folder.parent.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
