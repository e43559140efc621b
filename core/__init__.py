"""The training core: torch, numpy and the standard library; no Ray, MLflow, Hydra or Optuna, and no model family."""

if __name__ != "gatesweep.core":  # a module that is imported under two names has every class twice
    raise ImportError(f"import gatesweep.core, not {__name__}")
