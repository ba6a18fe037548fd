"""The program of a further process of a run (``python -m wichan.training.worker JOB``); see `wichan.training.processes`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from wichan.training.config import TrainConfig
from wichan.training.data import Share
from wichan.training.fitting import Place, open_run, run


def main(text: str) -> None:
    """Take part in the run that ``text`` (JSON) describes."""
    job = json.loads(text)
    device = torch.device(job["device"], job["rank"]) if job["device"] == "cuda" else torch.device(job["device"])
    place = Place(device, Share(job["rank"], job["world"]), job["threads"])
    saved = None if job["saved"] is None else Path(job["saved"])
    config = TrainConfig.from_dict(job["config"])
    run(config, place, open_run(config, place), None, saved, None, lambda text: None)


if __name__ == "__main__":
    main(sys.argv[1])
