"""Private names of Ray that running a sweep needs: a Ray without them is refused here, by name."""

from __future__ import annotations

import importlib
import inspect
from operator import attrgetter
from typing import Any

import pytest
import ray

PINNED = f"expected as in the pinned ray 2.60.0, got ray {ray.__version__}"


@pytest.mark.parametrize(
    ("module", "name", "parameters"),
    [
        ("ray._common.utils", "get_system_memory", []),
        ("ray._private.state", "actors", ["actor_id", "job_id", "actor_state_name"]),
        ("ray._private.state", "state.disconnect", []),
        ("ray._private.resource_and_label_spec", "ResourceAndLabelSpec.resolve", ["self", "is_head"]),
        ("ray._private.utils", "get_used_memory", []),
        ("ray._private.worker", "global_worker", None),
        ("ray._raylet", "GcsLogSubscriber.poll", []),
        ("ray._raylet", "GcsLogSubscriber.subscribe", []),
        ("ray._raylet", "GcsLogSubscriber.close", []),
        ("ray.air.execution._internal.actor_manager", "RayActorManager", ["resource_manager"]),
        ("ray._private.services", "canonicalize_bootstrap_address", ["addr"]),
        ("ray._private.services", "ConsolePopen", []),
        ("ray._private.utils", "set_sigterm_handler", ["sigterm_handler"]),
        ("ray._private.ray_constants", "DEBUG_AUTOSCALING_STATUS", None),
        ("ray._private.ray_constants", "ENABLE_RAY_CLUSTER", None),
        ("ray.autoscaler.v2.sdk", "get_cluster_status", ["gcs_address"]),
        ("ray.autoscaler.v2.utils", "is_autoscaler_v2", ["fetch_from_server"]),
        ("ray.experimental.internal_kv", "_internal_kv_get", ["key"]),
        ("ray.train.torch.config", "_TorchBackend", None),
        ("ray.train.torch.config", "_set_torch_distributed_env_vars", []),
        ("ray.train.torch.config", "_setup_torch_process_group", ["backend", "world_rank", "world_size"]),
        ("ray.train.v2._internal.callbacks.placement_group_callback", "PlacementGroupCleanerCallback", None),
    ],
)
def test_a_private_name_is_where_it_is_expected(module: str, name: str, parameters: list[str] | None) -> None:
    try:
        value = attrgetter(name)(importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        pytest.fail(f"{module}.{name} is missing ({error}): {PINNED}")
    if parameters is not None:
        first = list(inspect.signature(value).parameters)[: len(parameters)]
        assert first == parameters, f"{module}.{name} takes {first} first: {PINNED}"


@pytest.mark.parametrize(
    ("owner", "method"),
    [
        ("ray.tune.execution.tune_controller.TuneController", "_mark_trial_to_checkpoint"),
        ("ray.tune.execution.tune_controller.TuneController", "checkpoint"),
        ("ray.air.execution._internal.actor_manager.RayActorManager", "_actor_task_failed"),
        ("ray.tune.execution.tune_controller.TuneController", "on_step_end"),
        ("ray.train.torch.config._TorchBackend", "on_start"),
        ("ray.train.torch.TorchTrainer", "_create_default_callbacks"),
    ],
)
def test_a_method_that_is_overridden_exists(owner: str, method: str) -> None:
    assert callable(getattr(located(owner), method, None)), f"{owner}.{method} is missing: {PINNED}"


@pytest.mark.parametrize(
    ("owner", "attribute"),
    [
        ("ray.tune.execution.tune_controller.TuneController", "_trials"),
        ("ray.tune.execution.tune_controller.TuneController", "_actor_manager"),
        ("ray.tune.execution.tune_controller.TuneController", "_trial_to_actor"),
        ("ray.tune.execution.tune_controller.TuneController", "_stopping_actors"),
        ("ray.air.execution._internal.actor_manager.RayActorManager", "_live_actors_to_ray_actors_resources"),
        ("ray.tune.execution.tune_controller.TuneController", "_live_trials"),
        ("ray.tune.execution.tune_controller.TuneController", "_stopped_trials"),
        ("ray.tune.execution.tune_controller.TuneController", "_failed_trials"),
        ("ray.tune.search.SearchGenerator", "_counter"),
    ],
)
def test_an_attribute_that_is_used_is_set_by_the_constructor(owner: str, attribute: str) -> None:
    assert attribute in located(owner).__init__.__code__.co_names, f"{owner}.{attribute} is missing: {PINNED}"


def located(owner: str) -> Any:
    module, _, name = owner.rpartition(".")
    return getattr(importlib.import_module(module), name)
