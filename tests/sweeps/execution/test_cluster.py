"""The cluster files: AWS by Ray's own launcher against a stand-in for EC2, machines reached by ssh, autoscaling."""

from __future__ import annotations

import copy
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gatesweep.sweeps.config.compose import compose_config

ROOT = Path(__file__).parents[2].parent
OWN = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--mount"]


def own_namespaces() -> str | None:
    """Why a test that needs machines of its own cannot run here; None where it can."""
    for tool, package in {"unshare": "util-linux", "ip": "iproute2", "mount": "mount"}.items():
        if not shutil.which(tool):
            return f"needs {tool}: apt-get install {package}"
    tried = subprocess.run([*OWN, "ip", "link", "add", "name", "end", "type", "veth"], capture_output=True, text=True)
    return f"needs namespaces of its own (root, veth): {tried.stderr.strip()}" if tried.returncode else None


def ssh_missing() -> str | None:
    packages = {"/usr/sbin/sshd": "openssh-server", "ssh": "openssh-client", "rsync": "rsync"}
    lacking = [package for tool, package in packages.items() if not shutil.which(tool)]
    return f"apt-get install {' '.join(lacking)}" if lacking else own_namespaces()


def prepared(name: str) -> dict[str, Any]:
    """A cluster file as Ray's launcher takes it in; raises where its schema refuses it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((ROOT / name).read_text()))
    validate_config(config)
    return config


@pytest.mark.parametrize("name", ["cluster.yaml", "configs/cluster/local.yaml"])
def test_cluster_files_are_what_ray_up_accepts(name: str) -> None:
    config = prepared(name)
    for key in (key for key in config if key.endswith("_commands")):
        for command in config[key]:
            assert subprocess.run(["bash", "-n", "-c", command]).returncode == 0, command
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        [start] = [command for command in commands if "ray start" in command]
        assert "RAY_AUTH_MODE=token" in start
        assert "GATESWEEP_STORAGE=" in start
    assert any(remote.endswith(".ray/auth_token") for remote in config["file_mounts"])


def test_a_key_that_ray_does_not_know_is_refused() -> None:
    from ray.autoscaler._private.util import validate_config

    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config({**config, "idle_timeout": 5})


def test_the_image_is_of_the_ray_that_is_pinned() -> None:
    [pinned] = [
        line.split("==")[1] for line in (ROOT / "constraints.txt").read_text().split() if line.startswith("ray==")
    ]
    images = yaml.safe_load((ROOT / "cluster.yaml").read_text())["docker"]
    job = yaml.safe_load((ROOT / "configs/cluster/kuberay.yaml").read_text())
    assert images["head_image"].startswith(f"rayproject/ray:{pinned}-py311")
    assert images["worker_image"].startswith(f"rayproject/ray:{pinned}-py311")
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pinned


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """moto's server: the API of EC2, IAM and S3 on loopback, which remembers what it was asked."""
    pytest.importorskip("moto.server", reason="pip install 'moto[ec2,iam,s3,server]'")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [Path(sys.executable).with_name("moto_server"), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"):
        monkeypatch.setenv(f"AWS_{name}", "none")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray keeps the key pair it makes
    try:
        end = time.monotonic() + 30
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert server.poll() is None and time.monotonic() < end, "moto's server does not start"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def test_ray_launches_the_head_and_spot_workers_that_cluster_yaml_asks_for(ec2: str) -> None:
    import boto3
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_NODE_STATUS, TAG_RAY_USER_NODE_TYPE

    config = prepared("cluster.yaml")
    region = config["provider"]["region"]
    iam = boto3.client("iam", region_name=region)
    for name in ("gatesweep-head", "gatesweep-worker"):
        iam.create_instance_profile(InstanceProfileName=name)
    config = bootstrap_aws(AWSNodeProvider.fillout_available_node_types_resources(config))
    types = config["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    assert {name: types[name]["resources"]["GPU"] for name in ("gpu", "gpus")} == {"gpu": 1, "gpus": 4}

    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for name, kind in (("head", "head"), ("gpu", "worker"), ("gpus", "worker")):
        tags = {TAG_RAY_NODE_KIND: kind, TAG_RAY_NODE_STATUS: "uninitialized", TAG_RAY_USER_NODE_TYPE: name}
        provider.create_node(copy.deepcopy(types[name]["node_config"]), tags, 1)

    client = boto3.client("ec2", region_name=region)
    made = [one for group in client.describe_instances()["Reservations"] for one in group["Instances"]]
    found = {}
    for one in made:
        tags = {tag["Key"]: tag["Value"] for tag in one["Tags"]}
        assert tags["ray-cluster-name"] == "gatesweep"
        profile = one["IamInstanceProfile"]["Arn"].rpartition("/")[2]
        found[tags[TAG_RAY_USER_NODE_TYPE]] = (one["InstanceType"], one.get("InstanceLifecycle"), profile)
    assert found == {
        "head": ("m6i.xlarge", None, "gatesweep-head"),
        "gpu": ("g6.xlarge", "spot", "gatesweep-worker"),
        "gpus": ("g6.12xlarge", "spot", "gatesweep-worker"),
    }
    for group in client.describe_security_groups(GroupNames=["ray-autoscaler-gatesweep"])["SecurityGroups"]:
        from_outside = [rule for rule in group["IpPermissions"] if rule["IpRanges"]]
        assert [(rule["FromPort"], rule["ToPort"]) for rule in from_outside] == [(22, 22)]
    assert sorted(provider.non_terminated_nodes({TAG_RAY_NODE_KIND: "worker"})) == sorted(
        one["InstanceId"] for one in made if one["InstanceType"].startswith("g6")
    )


KUBERAY = {
    "spec": "entrypoint submissionMode backoffLimit shutdownAfterJobFinishes ttlSecondsAfterFinished runtimeEnvYAML "
    "submitterPodTemplate submitterConfig rayClusterSpec activeDeadlineSeconds suspend jobId metadata",
    "rayClusterSpec": "rayVersion authOptions enableInTreeAutoscaling autoscalerOptions headGroupSpec workerGroupSpecs "
    "gcsFaultToleranceOptions suspend headServiceAnnotations",
    "autoscalerOptions": "version upscalingMode idleTimeoutSeconds image imagePullPolicy env envFrom resources",
    "headGroupSpec": "rayStartParams template serviceType headService enableIngress",
    "workerGroupSpecs": "groupName replicas minReplicas maxReplicas rayStartParams template idleTimeoutSeconds",
}


def test_the_job_for_kubernetes_has_the_fields_of_a_rayjob() -> None:
    job = yaml.safe_load((ROOT / "configs/cluster/kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    [workers] = cluster["workerGroupSpecs"]
    parts = {"spec": job["spec"], "rayClusterSpec": cluster, "autoscalerOptions": cluster["autoscalerOptions"]}
    parts |= {"headGroupSpec": cluster["headGroupSpec"], "workerGroupSpecs": workers}
    for name, part in parts.items():
        assert set(part) <= set(KUBERAY[name].split()), name
    assert job["spec"]["submissionMode"] in ("K8sJobMode", "HTTPMode", "SidecarMode")
    for group in (cluster["headGroupSpec"], workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())  # the operator takes no other
        [container] = group["template"]["spec"]["containers"]
        assert {"GATESWEEP_STORAGE", "GATESWEEP_RESULTS"} < {one["name"] for one in container["env"]}
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    program, *overrides = job["spec"]["entrypoint"].split()[1:]
    config = compose_config(overrides)
    assert (ROOT / program).is_file()
    assert config.max_concurrent == workers["maxReplicas"]


def uploaded(folder: Path, target: Path) -> dict[str, int]:
    """What `ray job submit --working-dir FOLDER` uploads: the size of each file."""
    from ray._private.runtime_env.packaging import create_package

    create_package(str(folder), target, include_gitignore=True, excludes=[])
    with zipfile.ZipFile(target) as packed:
        return {one.filename: one.file_size for one in packed.infolist() if not one.is_dir()}


def test_a_job_uploads_the_code_and_no_more(tmp_path: Path) -> None:
    files = uploaded(ROOT, tmp_path / "package.zip")
    assert {name.split("/")[0] for name in files if "/" in name} == {"gatesweep", "sweeps"}
    assert {name for name in files if name.startswith("sweeps/")} == {  # its rooms come in gatesweep/ alone
        f"sweeps/{path.name}" for path in (ROOT / "sweeps").glob("*.py")
    }
    for folder in ("configs", "core", "sweeps", "trainables"):
        assert any(name.startswith(f"gatesweep/{folder}/") for name in files), folder
    assert (tmp_path / "package.zip").stat().st_size < 2 * 2**20
    named = ("sweeps/run.py", "gatesweep/configs/config.yaml", "gatesweep/lightning.py")
    for name in (*named, "gatesweep/trainables/walks/connectome"):
        assert any(path.startswith(name) for path in files), name


def test_what_runs_leave_behind_is_not_uploaded(tmp_path: Path) -> None:
    for ignore in (".gitignore", ".rayignore"):
        shutil.copy(ROOT / ignore, tmp_path)
    left = ["results/a/trial_0000/checkpoints/epoch_0001/state.pt", "mlartifacts/0/a.png", "outputs/.hydra/config.yaml"]
    left += [".git/config", ".venv/bin/python", "results/mlflow.db", "core/__pycache__/a.pyc", "model.safetensors"]
    for name in (*left, "sweeps/run.py", "gatesweep/trainables/walks/results/table.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files = uploaded(tmp_path, tmp_path.with_suffix(".zip"))
    assert set(files) == {".gitignore", ".rayignore", "sweeps/run.py", "gatesweep/trainables/walks/results/table.csv"}


def run_apart(script: str, folder: Path, *overrides: str, seconds: float) -> dict[str, Any]:
    """Run a script of tests/cluster with networks and processes of its own; returns what it saw."""
    # `ray` itself, whether its environment is active or not
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": tools}
    for name in ("RAY_ADDRESS", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        environment.pop(name, None)  # what the tests' own Ray is told
    command = [*OWN, sys.executable, "-m", f"tests.cluster.{script}", str(folder), *overrides]
    with (folder / "log").open("w") as log:
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, timeout=seconds)
    assert done.returncode == 0, (folder / "log").read_text()[-6000:]
    return json.loads((folder / "seen.json").read_text())


@pytest.mark.skipif(bool(ssh_missing()), reason=ssh_missing() or "")
def test_a_sweep_runs_on_machines_that_are_reached_by_ssh(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp_cors", reason="pip install 'ray[default]'")
    seen = run_apart("ray_up", tmp_path, "gate.thresholds={}", seconds=420)
    assert sorted(seen["nodes"]) == ["10.99.0.2", "10.99.0.3"]
    assert seen["refused"] == 401
    assert "0 of 3 trials passed" in seen["output"]
    assert (seen["job_code"], seen["cli_code"]) == (3, 1), seen["output"]  # Ray's own command says no more than 1
    assert "summary.json" in seen["listed"]
    [summary] = (tmp_path / "fetched").glob("*-mlp/summary.json")
    assert json.loads(summary.read_text())["trials"] == 3
    assert len(list((tmp_path / "shared").glob("sweeps/*-mlp/trial_*/checkpoints"))) == 3  # from another machine
    assert not [line for machine in seen["left"] for line in machine if "ray" in line]


@pytest.mark.skipif(bool(own_namespaces()), reason=own_namespaces() or "")
def test_pending_trials_bring_machines_up_and_idle_ones_go(tmp_path: Path) -> None:
    seen = run_apart("autoscale", tmp_path, seconds=300)
    assert seen["code"] in (0, 3), seen["output"]
    assert seen["machines"][0] == 0
    assert max(seen["machines"]) == 2, seen
    assert seen["left"] == 0
    [summary] = (tmp_path / "results").glob("*-mlp/summary.json")
    assert json.loads(summary.read_text())["trials"] == 4
