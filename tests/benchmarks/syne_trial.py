"""A trial of Syne Tune, whose local backend starts this file for each."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from syne_tune import Reporter

from tests.benchmarks.trained import Job, loss

parser = argparse.ArgumentParser()
parser.add_argument("--st_config_json_filename", type=Path)
parser.add_argument("--st_checkpoint_dir", type=Path)
arguments = parser.parse_args()
point = json.loads(arguments.st_config_json_filename.read_text())
job = Job.read(Path(point.pop("folder")))
report = Reporter()
for epoch in job.train(point, int(arguments.st_checkpoint_dir.parent.name)):
    report(epoch=epoch.index, loss=loss(epoch))
