"""Sweeps: Ray, Optuna, MLflow and Hydra around `core`; a family is reached only by the `_target_` in its YAML."""
