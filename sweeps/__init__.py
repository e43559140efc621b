"""Sweeps: Ray, Optuna, MLflow and Hydra around `core`; a family is reached only by the `_target_` in its YAML."""

import os

if __name__ != "gatesweep.sweeps":  # one name a file: a class imported twice is two classes
    raise ImportError("sweeps is gatesweep.sweeps")

# Ray reads these when it is imported. It stays on this machine unless told of a cluster, and is silent.
RAY_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux: binds every port to loopback
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a relative path in a configuration means the same in a trial
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the run directories are the record
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's snapshots are not used: a resumed sweep reads the record
}
for _name, _value in RAY_ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
