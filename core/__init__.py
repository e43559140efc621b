"""The training core: torch, numpy and the standard library; nothing of Ray, MLflow, Hydra, Optuna or any family."""

if __name__ != "gatesweep.core":  # one name a file: a class imported twice is two classes
    raise ImportError("core is gatesweep.core")
