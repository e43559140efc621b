"""Metrics of decoded circuits by their own physics, of circuits decoded from the prior, and of the latent space."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gatesweep.core.gate import proportion
from gatesweep.core.trainable import Metrics
from gatesweep.trainables.circuits.circuit import Mask, Values, connected, edit_distance, keys
from gatesweep.trainables.circuits.data import Part, Statistics
from gatesweep.trainables.circuits.physics import decibels, grid, response, roots

UNMATCHED = 6.0  # decades: the error of a missing or surplus pole, and the width of the frequency grid
PAIRS_COMPARED = 1000  # pairs of circuits for the rank correlation
SILHOUETTE_CIRCUITS = 400
SLACK = 1.0  # decades that a valid value may lie outside the training range


def reconstruction(part: Part, mask: Mask, values: Values) -> Metrics:
    """Compare decoded circuits (n, 10, 3) with those of `part`: topology, values, and transfer function.

    `topology_accuracy` is the share with exactly the right components. `value_error` is the mean error in decades of
    the values of the true components. `db_error` is the mean absolute error in dB over frequency of the decoded
    circuits' transfer functions. `pole_error_median` and `pole_error_p95` are quantiles in decades over all poles.
    `stable` is a share. A circuit without a transfer function has no poles and is not stable.
    """
    exact = part.circuits
    transfer = response(torch.from_numpy(mask), torch.from_numpy(values), grid(torch.device("cpu"), torch.float64))
    exact_transfer = torch.view_as_complex(part.tensors["response"].cpu().double().contiguous())
    solution = roots(mask, values)
    errors = pole_errors(solution.poles, part.roots.poles)
    right = (mask == exact.mask).all(axis=(1, 2))
    return {
        **proportion("topology_accuracy", int(right.sum()), len(right)),
        "value_error": float(np.abs(values - exact.values)[exact.mask].mean()),
        "db_error": float((decibels(transfer) - decibels(exact_transfer)).abs().mean()),
        "pole_error_median": float(np.median(errors)) if len(errors) else 0.0,
        "pole_error_p95": float(np.quantile(errors, 0.95)) if len(errors) else 0.0,
        **proportion("stable", int(solution.stable.sum()), len(right)),
    }


def pole_errors(decoded: NDArray[np.complex128], exact: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Return |log10 |p'| - log10 |p|| in decades for all poles of two arrays (n, 6), flattened.

    Poles of a row are paired in the order of magnitude. A pole without a partner has the error `UNMATCHED`, which is
    also the largest error.
    """
    logs, exact_logs = np.log10(np.abs(decoded)), np.log10(np.abs(exact))
    exists, exact_exists = np.isfinite(logs), np.isfinite(exact_logs)
    errors = np.where(exists & exact_exists, np.abs(logs - exact_logs), UNMATCHED)
    return np.minimum(errors, UNMATCHED)[exists | exact_exists]


def generation(mask: Mask, values: Values, training: Mask, statistics: Statistics) -> Metrics:
    """Count the valid, the distinct and the novel among circuits (n, 10, 3) decoded from the prior.

    A circuit is valid if it is connected without dead ends, VOUT follows VIN, and all values lie within a decade of the
    training range of their kind. `prior_valid` is the share of valid circuits. `prior_distinct` is the number of
    topologies among them. `prior_novel` is the share of them whose topology is not in `training` (m, 10, 3).
    """
    inside = ((values >= statistics.low - SLACK) & (values <= statistics.high + SLACK)) | ~mask
    valid = connected(mask) & inside.all(axis=(1, 2))
    valid[valid] = roots(mask[valid], values[valid]).defined
    generated_keys, training_keys = keys(mask[valid]), set(keys(np.unique(training, axis=0)))
    return {
        **proportion("prior_valid", int(valid.sum()), len(valid)),
        "prior_distinct": float(len(set(generated_keys))),
        **proportion("prior_novel", sum(key not in training_keys for key in generated_keys), len(generated_keys)),
    }


def layout(mean: Tensor, part: Part) -> Metrics:
    """Describe the latent means (n, latent) of the circuits of a part.

    `silhouette` is the mean silhouette coefficient with filter types as clusters. `edit_correlation` is Spearman's rank
    correlation of latent distances with graph edit distances. `active` is the number of dimensions whose mean has a
    variance above 0.01; source: Burda et al., arXiv:1509.00519, sec. 4.2.
    """
    from scipy.stats import spearmanr
    from sklearn.metrics import silhouette_score
    from threadpoolctl import threadpool_limits

    points = mean.detach().cpu().double().numpy()
    rng = np.random.default_rng(0)
    types = part.circuits.types
    subset = rng.permutation(len(points))[:SILHOUETTE_CIRCUITS]
    silhouette = 0.0
    if 1 < len(np.unique(types[subset])) < len(subset):
        with threadpool_limits(torch.get_num_threads()):
            silhouette = float(silhouette_score(points[subset], types[subset]))
    first, second = rng.integers(len(points), size=(2, PAIRS_COMPARED))
    distances = np.linalg.norm(points[first] - points[second], axis=1)
    edits = edit_distance(part.circuits.mask[first], part.circuits.mask[second])
    varied = min(np.ptp(distances), np.ptp(edits)) > 0
    return {
        "silhouette": silhouette,
        "edit_correlation": float(spearmanr(distances, edits).statistic) if varied else 0.0,
        "active": float((points.var(axis=0) > 0.01).sum()),
    }
