"""The folder of a training run: what must be so before a run starts or goes on in it."""

import hashlib
import json
import logging
from pathlib import Path

import torch
import yaml

from gsrender_core.config import TrainConfig, to_dict
from gsrender_core.whole_file import write_whole

logger = logging.getLogger(__name__)


def prepare(out: Path, config: TrainConfig, resume: bool) -> dict | None:
    """Check and clean the folder ``out`` of a run; the state to resume from, if any.

    Raises:
        FileExistsError: the folder already holds a run and ``resume`` is False.
        FileNotFoundError: nothing to resume.
        ValueError: the run is at its end, or its state is damaged or another model's.
    """
    resume_file, state = out / "resume.pt", None
    if resume and not resume_file.exists() and (out / "config.yaml").exists():
        logger.info("%s stopped before its first checkpoint: it starts anew", out)
        (out / "log.jsonl").unlink(missing_ok=True)
    elif resume:
        if not resume_file.exists():
            raise FileNotFoundError(f"{resume_file} does not exist: nothing to resume; start without --resume")
        state = read_state(resume_file, config)
        if state["step"] >= config.steps:
            raise ValueError(f"{out} is at step {state['step']} of {config.steps}; raise --steps to go on")
    elif out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty; continue its run with --resume or choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    for partial in out.glob("*.partial"):
        logger.info("removing %s, which was being written when the run ended", partial)
        partial.unlink()
    log = out / "log.jsonl"
    if state is not None and log.exists():
        text = rows_until(log.read_text(encoding="utf-8", errors="replace"), state["step"])
        write_whole(log, lambda partial: partial.write_text(text, encoding="utf-8"))
    settings = yaml.safe_dump(to_dict(config), sort_keys=False)
    write_whole(out / "config.yaml", lambda partial: partial.write_text(settings, encoding="utf-8"))
    return state


def read_state(path: Path, config: TrainConfig) -> dict:
    """What a run saved to go on from, checked against the configuration it is to go on with.

    Raises:
        ValueError: damaged, not a run's state, or of another model.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file; all mean the same to the user
        raise ValueError(f"{path} cannot be resumed from ({error}); delete the folder to start anew") from error
    if not isinstance(state, dict) or not {"config", "step", "best", "tau", "seconds"} <= set(state):
        raise ValueError(f"{path} was not written by `gsrender train`; delete the folder to start anew")
    stored, mine = json.loads(state["config"]), to_dict(config)
    if stored["model"] != mine["model"]:
        raise ValueError(f"{path} belongs to another model configuration; use the run's own config.yaml")
    stored = _with_defaults(stored, to_dict(TrainConfig()))  # of keys that came later: the run was made with them
    for name in (k for k in mine if stored.get(k) != mine[k]):
        logger.warning("resumed with another %s: %s before, now %s", name, stored.get(name), mine[name])
    return state


def _with_defaults(stored: dict, defaults: dict) -> dict:
    """Nested plain values, completed from others."""
    result = dict(defaults)
    for key, value in stored.items():
        nested = isinstance(value, dict) and isinstance(defaults.get(key), dict)
        result[key] = _with_defaults(value, defaults[key]) if nested else value
    return result


def rows_until(log: str, step: int) -> str:
    """The lines of a log that a run resumed at ``step`` will not write again; a line cut off by a crash goes too."""
    kept = []
    for line in log.splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row["step"] <= step:
            kept.append(line + "\n")
    return "".join(kept)


def readable(dataset, indices: list[int]) -> list[int]:
    """The validation frames that can be read with their ground truth; each other one is named and left out.

    Looked at before a run starts: one broken file must not end it hours later, at its first validation.
    """
    usable = []
    for i in indices:
        try:
            dataset.ground_truth(i)
            dataset.frame(i, labels=False)
        except (ValueError, OSError) as error:
            logger.warning("validation frame %d is left out: %s", i, error)
        else:
            usable.append(i)
    return usable


def data_of(dataset, train_scenes: list[str], validation_scenes: list[str]) -> dict:
    """What a run learns from and is validated on, so that it does not go on with other data."""
    tokens = "\n".join(getattr(dataset, "tokens", ()))
    return {
        "training scenes": list(train_scenes),
        "validation scenes": list(validation_scenes),
        "samples": hashlib.sha256(tokens.encode()).hexdigest(),
    }


def require_same_data(out: Path, stored: dict | None, mine: dict) -> None:
    """Refuse to go on with other data than a run began with (``data_of``); states of older versions do not say.

    Raises:
        ValueError: naming what differs.
    """
    other = [name for name in mine if stored is not None and stored.get(name) != mine[name]]
    if other:
        raise ValueError(
            f"{out} was trained on other data: its {', '.join(other)} differ; resume with the --data, "
            "--data-version, --scenes and --split that it began with"
        )
