"""`ray up`, `ray job submit`, `ray exec`, `ray rsync-down`, `ray down`, on two machines that answer ssh.

    unshare --net --pid --fork --kill-child --mount-proc --mount python -m tests.cluster.ray_up FOLDER [KEY=VALUE ...]

Each machine is a network, PID and mount namespace with an sshd of its own. The cluster is configs/cluster/local.yaml
with other addresses, and with the dependencies that are here instead of installed ones. Prints what was seen as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
HEAD, WORKER = "10.99.0.2", "10.99.0.3"
SWEEP = ["experiment=mlp", "num_samples=3", "training.max_epochs=2", "tracking=none", "figures=none"]


def main(folder: Path, overrides: list[str]) -> dict[str, Any]:
    home = folder / "laptop"
    config = home / "cluster.yaml"
    os.environ |= {
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_UP_enable_autoscaler_v2": "0",
    }
    network(folder)
    sh("ray", "get-auth-token", "--generate")
    write_config(folder, config)
    machines = [machine(folder, "head", HEAD), machine(folder, "worker", WORKER)]
    seen: dict[str, Any] = {"seconds": {}}
    began = time.monotonic()

    def mark(what: str) -> None:
        seen["seconds"][what] = round(time.monotonic() - began, 1)

    tunnel = None
    try:
        sh("ray", "up", "-y", "--no-config-cache", str(config))
        mark("up")
        tunnel = subprocess.Popen(
            ["ray", "dashboard", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.environ["RAY_API_SERVER_ADDRESS"] = "http://127.0.0.1:8265"
        nodes = joined()
        mark("joined")
        seen["nodes"] = [node["node_ip"] for node in nodes]
        seen["refused"] = refused_without_token()
        seen |= submit([*SWEEP, *overrides])
        mark("submitted")
        seen["listed"] = sh("ray", "exec", str(config), "ls gatesweep/results/latest/")
        mark("exec")
        sh("ray", "rsync-down", str(config), "~/gatesweep/results/", str(folder / "fetched"))
        mark("rsync-down")
        tunnel.send_signal(signal.SIGINT)
        sh("ray", "down", "-y", str(config))
        mark("down")
        on(WORKER, "bash -ic 'ray stop --force'")
        seen["left"] = [on(address, "ps -eo args").splitlines() for address in (HEAD, WORKER)]
        mark("all gone")
    finally:
        for process in (*machines, *([tunnel] if tunnel else [])):
            process.kill()
            process.wait()
    return seen


def sh(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if check and done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-6000:]}")
    return done.stdout


def on(address: str, command: str) -> str:
    """Run a command on a machine, not by way of Ray."""
    key = Path(os.environ["HOME"]).parent / "key"
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    return sh("ssh", "-i", str(key), *options, f"root@{address}", command).strip()


def network(folder: Path) -> None:
    """A switch that the machines are plugged into, the keys, and a /tmp/ray of our own."""
    for one in ("laptop/ray", "laptop/tmp", "shared"):
        (folder / one).mkdir(parents=True)
    for name in ("key", "host_key"):
        sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    Path("/tmp/ray").mkdir(exist_ok=True)
    sh("mount", "--bind", str(folder / "laptop/ray"), "/tmp/ray")
    sh("ip", "link", "set", "lo", "up")
    sh("ip", "link", "add", "switch", "type", "bridge")
    sh("ip", "address", "add", "10.99.0.1/24", "dev", "switch")
    sh("ip", "link", "set", "switch", "up")


def machine(folder: Path, name: str, address: str) -> subprocess.Popen:
    """Start a machine and plug it in; returns once it answers."""
    own = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--mount"]
    environment = {"PATH": os.environ["PATH"], "HOME": "/root", "LANG": "C.UTF-8"}
    command = [*own, str(Path(__file__).with_name("machine.sh")), str(folder / name), address]
    with (folder / f"{name}.log").open("w") as log:
        started = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    here = os.readlink("/proc/self/ns/net")
    until(lambda: os.readlink(f"/proc/{started.pid}/ns/net") != here, 10)
    sh("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(started.pid))
    sh("ip", "link", "set", name, "master", "switch", "up")
    until(
        lambda: subprocess.run(["bash", "-c", f"exec 3<>/dev/tcp/{address}/22"], capture_output=True).returncode == 0,
        10,
    )
    return started


def until(true: Any, seconds: float) -> Any:
    end = time.monotonic() + seconds
    while not (value := true()):
        if time.monotonic() > end:
            raise SystemExit(f"timed out after {seconds:.0f} s: {true}")
        time.sleep(0.1)
    return value


def write_config(folder: Path, path: Path) -> None:
    """The cluster file that is delivered, for these machines."""
    config = yaml.safe_load((ROOT / "configs/cluster/local.yaml").read_text())
    config["cluster_name"] = f"gatesweep-{os.getpid()}-{int(time.time())}"
    config["provider"] |= {"head_ip": HEAD, "worker_ips": [WORKER]}
    config["auth"] |= {"ssh_user": "root", "ssh_private_key": str(folder / "key")}
    config["setup_commands"] = [f"echo 'PATH={Path(sys.executable).parent}:$PATH' >> ~/.bashrc"]
    limits = f"--object-store-memory={100 * 2**20}"
    for key, cpus in (("head_start_ray_commands", 0), ("worker_start_ray_commands", 1)):
        config[key] = [
            line.replace("/mnt/shared", str(folder / "shared")).replace(
                "ray start", f"AUTOSCALER_UPDATE_INTERVAL_S=1 ray start {limits} --num-cpus={cpus}"
            )
            for line in config[key]
        ]
    path.write_text(yaml.safe_dump(config))


def joined() -> list[dict[str, Any]]:
    """The machines of the cluster, once there are two."""

    def alive() -> list[dict[str, Any]] | None:
        try:
            nodes = dashboard("api/v0/nodes", token())["data"]["result"]["result"]
        except OSError:  # it does not answer yet
            return None
        return nodes if sum(node["state"] == "ALIVE" for node in nodes) == 2 else None

    return until(alive, 120)


def refused_without_token() -> int:
    """What the dashboard answers to someone who has its address but not the token."""
    try:
        dashboard("api/jobs/", "")
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def token() -> str:
    return (Path(os.environ["HOME"]) / ".ray/auth_token").read_text().strip()


def dashboard(path: str, token: str) -> Any:
    """What the dashboard answers; by Ray's own client it would take seconds of imports."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"http://127.0.0.1:8265/{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def submit(overrides: list[str]) -> dict[str, Any]:
    command = [
        "ray",
        "job",
        "submit",
        "--working-dir",
        ".",
        "--submission-id",
        "sweep",
        "--",
        "python",
        "sweeps/run.py",
    ]
    done = subprocess.run([*command, *overrides], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    code = dashboard("api/jobs/sweep", token())["driver_exit_code"]
    return {"cli_code": done.returncode, "job_code": code, "output": done.stdout[-4000:]}


if __name__ == "__main__":
    where = Path(sys.argv[1]).resolve()
    seen = main(where, sys.argv[2:])
    (where / "seen.json").write_text(json.dumps(seen, indent=1))
    print(json.dumps(seen, indent=1))
    shutil.rmtree(where / "laptop/ray", ignore_errors=True)
