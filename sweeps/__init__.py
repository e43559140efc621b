"""Sweeps: Ray, Optuna, MLflow and Hydra around `core`.

A model family is reached only by the `_target_` in its YAML. Each folder is a room. From the top they are commands,
simulation, reports, tracking, execution, schedulers, search, storage, records, config; a room imports from those below.
"""

import os

if __name__ != "gatesweep.sweeps":  # a module that is imported under two names has every class twice
    raise ImportError("sweeps is gatesweep.sweeps")

# Ray reads these variables when it is imported. Values that the user has set stay.
RAY_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux this binds every port to loopback
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a relative path in a configuration has the same meaning in a trial
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # gatesweep writes the records itself
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # seconds; a resumed sweep reads its record, not Tune's snapshots
}
for _name, _value in RAY_ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
