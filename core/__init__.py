"""The training core: torch, numpy and the standard library; nothing of Ray, MLflow, Hydra, Optuna or any family."""
