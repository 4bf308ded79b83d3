"""Checkpoints: one safetensors file that holds weights, the model's configuration and how it was made.

Loading executes no code: safetensors carries numbers, the rest is JSON in its header.
"""

import json
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from gsrender_core.config import ModelConfig, from_dict, to_dict
from gsrender_core.model.gsrender import GSRender
from gsrender_core.whole_file import write_whole

FORMAT = 1
_KEY = "gsrender"


@dataclass
class Checkpoint:
    """A model with its weights, and ``info``: what the trainer recorded (data, seed, steps, metrics, ...)."""

    model: GSRender
    info: dict = field(default_factory=dict)


def default_checkpoint() -> Path:
    """Path of the checkpoint that the package carries.

    Raises:
        FileNotFoundError: the installation lacks it.
    """
    path = Path(__file__).parent / "checkpoints" / "default.safetensors"
    if not path.exists():
        raise FileNotFoundError(
            f"the packaged checkpoint {path} is missing: reinstall, or name a checkpoint of your own"
        )
    return path


def named_checkpoint(name: str | Path) -> Path:
    """Path of a checkpoint; ``default`` is the packaged one."""
    return default_checkpoint() if name == "default" else Path(name)


def save_checkpoint(path: str | Path, model: GSRender, info: dict, dtype: torch.dtype = torch.float32) -> None:
    """Write a checkpoint atomically; floating-point weights are stored as ``dtype``."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        # Statistics stay in full precision: variances outgrow float16.
        name: (value.to(dtype) if value.is_floating_point() and "running_" not in name else value).cpu().contiguous()
        for name, value in model.state_dict().items()
    }
    for name, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"weight {name!r} is not finite; {path} is not written")
    try:
        made_with = version("gsrender_ros")
    except PackageNotFoundError:
        made_with = "source"
    header = {"format": FORMAT, "version": made_with, "model": to_dict(model.config), "info": info}

    def write(partial: Path) -> None:
        save_file(tensors, partial, metadata={_KEY: json.dumps(header)})
        partial.chmod(0o644)  # safetensors makes files that only their owner may read

    write_whole(path, write)


def read_header(path: str | Path) -> dict:
    """The header of a checkpoint: ``format``, ``version``, ``model``, ``info``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a safetensors file, truncated, not one of ours, or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}); copy or train it again") from error
    if _KEY not in metadata:
        raise ValueError(
            f"{path} holds no GSRender configuration (keys {sorted(metadata)}); was it made by `gsrender train`?"
        )
    try:
        header = json.loads(metadata[_KEY])
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: its configuration is not JSON ({error})") from error
    if not isinstance(header, dict) or not isinstance(header.get("model"), dict):
        raise ValueError(f"{path}: its header lacks the model configuration; was it made by `gsrender train`?")
    if header.get("format") != FORMAT:
        raise ValueError(f"{path} has format {header.get('format')}, this version reads {FORMAT}; update the package")
    return header


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint and build its model, in evaluation mode.

    Raises:
        FileNotFoundError, ValueError: as ``read_header``, or weights that do not fit their configuration.
    """
    header = read_header(path)
    try:
        model = GSRender(from_dict(ModelConfig, header["model"]), load_pretrained=False)
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: its model configuration is not usable: {error}") from error
    with safe_open(Path(path), framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    wanted = model.state_dict()
    for name, value in wanted.items():
        if name not in weights:
            raise ValueError(f"{path} lacks the weight {name!r} {tuple(value.shape)} that its configuration asks for")
        if weights[name].shape != value.shape:
            raise ValueError(f"{path}: weight {name!r} is {tuple(weights[name].shape)}, expected {tuple(value.shape)}")
    surplus = sorted(set(weights) - set(wanted))
    if surplus:
        raise ValueError(f"{path} holds {len(surplus)} weights that its configuration does not know, as {surplus[0]!r}")
    broken = next((n for n, v in weights.items() if v.is_floating_point() and not v.isfinite().all()), None)
    if broken is not None:
        raise ValueError(f"{path}: weight {broken!r} holds NaN or infinity; copy or train it again")
    model.load_state_dict({name: weights[name].to(value.dtype) for name, value in wanted.items()})
    return Checkpoint(model.to(device).eval(), header.get("info", {}))
