"""A sweep on a cluster that grows: pending trials bring machines up, idle machines go.

    unshare --net --pid --fork --kill-child --mount-proc --mount python -m tests.cluster.autoscale FOLDER [KEY=VALUE]

Ray's autoscaler, as `ray up` starts it, with its fake provider: its machines are processes here. The head has no CPU.
In namespaces of its own, for the ports are Ray's own and every process ends with it. Prints what was seen as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.autoscaler._private import fake_multi_node
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

ROOT = Path(__file__).parents[2]
HEAD = "ray.head.default"  # the fake provider knows no other name
MEMORY = 90 * 2**20
SWEEP = ["experiment=mlp", "num_samples=4", "training.max_epochs=2", "tracking=none", "figures=none"]


def main(folder: Path, overrides: list[str]) -> dict[str, Any]:
    (folder / "ray").mkdir(parents=True)
    Path("/tmp/ray").mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", folder / "ray", "/tmp/ray"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    start_head(folder, cluster())
    ray.init("127.0.0.1:6379", log_to_driver=False, logging_level="ERROR")
    os.environ["RAY_ADDRESS"] = "127.0.0.1:6379"
    seen: dict[str, Any] = {"machines": [machines()]}
    command = [sys.executable, "sweeps/run.py", *SWEEP, *overrides, f"results={folder / 'results'}"]
    began = time.monotonic()
    sweep = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    ended = None
    while time.monotonic() - (ended or began) < 90 and ((now := machines()) or ended is None):
        if now != seen["machines"][-1]:
            seen["machines"].append(now)
            seen.setdefault("seconds", []).append(round(time.monotonic() - began, 1))
        if ended is None and sweep.poll() is not None:
            ended = time.monotonic()
            seen |= {"code": sweep.returncode, "output": sweep.stdout.read()[-3000:], "ended": round(ended - began, 1)}
        time.sleep(0.2)
    sweep.kill()
    seen |= {"left": machines(), "gone": round(time.monotonic() - began, 1)}
    ray.shutdown()
    return seen


def machines() -> int:
    """How many there are beside the head."""
    return sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())


def cluster() -> dict[str, Any]:
    """What `ray up` would have left on the head: one type of machine, of one CPU, at most two of them."""
    lists = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
    lists += (
        "head_start_ray_commands",
        "worker_start_ray_commands",
        "cluster_synced_files",
        "rsync_exclude",
        "rsync_filter",
    )
    provider = {"type": "fake_multinode", "use_node_id_as_ip": True, "disable_node_updaters": True}
    provider |= {"disable_launch_config_check": True, "launch_multiple": True, "head_node_id": FAKE_HEAD_NODE_ID}
    types = {
        HEAD: {"resources": {"CPU": 0, "object_store_memory": MEMORY}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1, "object_store_memory": MEMORY}, "node_config": {}, "max_workers": 2},
    }
    return {
        "cluster_name": "growing",
        "provider": provider,
        "available_node_types": types,
        "head_node_type": HEAD,
        "max_workers": 2,
        "upscaling_speed": 2.0,
        "idle_timeout_minutes": 0.05,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in lists},
    }


def start_head(folder: Path, config: dict[str, Any]) -> None:
    path = folder / "ray_bootstrap_config.yaml"
    path.write_text(yaml.safe_dump(config))
    # The second autoscaler reads the fake provider's configuration from beside its code, where the wheel has none.
    code = Path(fake_multi_node.__file__).parent
    shutil.copytree(code, folder / "code")
    (folder / "code/example.yaml").write_text(yaml.safe_dump(config))
    subprocess.run(["mount", "--bind", folder / "code", code], check=True)
    os.environ |= {"HOME": str(folder), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    head = {"RAY_enable_autoscaler_v2": "1", "RAY_NODE_TYPE_NAME": HEAD, "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID}
    head |= {
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    command = ["ray", "start", "--head", "--port=6379", "--node-ip-address=127.0.0.1", "--num-cpus=0"]
    command += [f"--object-store-memory={MEMORY}", "--include-dashboard=false", f"--autoscaling-config={path}"]
    subprocess.run(command, env={**os.environ, **head}, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    where = Path(sys.argv[1]).resolve()
    (where / "seen.json").write_text(json.dumps(main(where, sys.argv[2:]), indent=1))
    print((where / "seen.json").read_text())
