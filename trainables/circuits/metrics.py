"""How good a decoded circuit is, by its own physics; what the prior decodes to; how the latent is laid out."""

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

UNMATCHED = 6.0  # decades that a missing or surplus pole is off: as far as the frequencies of the grid reach
PAIRS_COMPARED = 1000  # of the rank correlation
SILHOUETTE_OF = 400  # circuits
SLACK = 1.0  # decades that a valid value may lie outside the training range


def reconstruction(part: Part, mask: Mask, values: Values) -> Metrics:
    """Decoded circuits (n, 10, 3) against those of `part`, by shape, by value and by what they do.

    `value_error` is in decades over the parts that are truly there; `db_error` is mean |dB| over frequency, of the
    decoded circuit solved again; pole errors are in decades of magnitude over all poles. A circuit that is not
    defined has no poles, and is not stable.
    """
    exact = part.circuits
    transfer = response(torch.from_numpy(mask), torch.from_numpy(values), grid(torch.device("cpu"), torch.float64))
    truth = torch.view_as_complex(part.tensors["response"].cpu().double().contiguous())
    found = roots(mask, values)
    errors = pole_errors(found.poles, part.roots.poles)
    right = (mask == exact.mask).all(axis=(1, 2))
    return {
        **proportion("topology_accuracy", int(right.sum()), len(right)),
        "value_error": float(np.abs(values - exact.values)[exact.mask].mean()),
        "db_error": float((decibels(transfer) - decibels(truth)).abs().mean()),
        "pole_error_median": float(np.median(errors)) if len(errors) else 0.0,
        "pole_error_p95": float(np.quantile(errors, 0.95)) if len(errors) else 0.0,
        **proportion("stable", int(found.stable.sum()), len(right)),
    }


def pole_errors(found: NDArray[np.complex128], exact: NDArray[np.complex128]) -> NDArray[np.float64]:
    """|log10 |p'| - log10 |p|| of every pole, matched in the order of magnitude; UNMATCHED where one has no other."""
    logs = [np.log10(np.abs(one)) for one in (found, exact)]
    there = [np.isfinite(one) for one in logs]
    errors = np.where(there[0] & there[1], np.abs(logs[0] - logs[1]), UNMATCHED)
    return np.minimum(errors, UNMATCHED)[there[0] | there[1]]


def generation(mask: Mask, values: Values, training: Mask, statistics: Statistics) -> Metrics:
    """Circuits (n, 10, 3) decoded from the prior: which are valid, how many differ, how many are new.

    Valid: connected without dead ends, VOUT follows VIN, and all values within a decade of the training range of
    their kind. `prior_distinct` counts topologies among the valid; `prior_novel` is the share of the valid whose
    topology no training circuit has.
    """
    inside = ((values >= statistics.low - SLACK) & (values <= statistics.high + SLACK)) | ~mask
    valid = connected(mask) & inside.all(axis=(1, 2))
    valid[valid] = roots(mask[valid], values[valid]).defined
    made, known = keys(mask[valid]), set(keys(np.unique(training, axis=0)))
    return {
        **proportion("prior_valid", int(valid.sum()), len(valid)),
        "prior_distinct": float(len(set(made))),
        **proportion("prior_novel", sum(key not in known for key in made), len(made)),
    }


def layout(mean: Tensor, part: Part) -> Metrics:
    """How the latent means (n, latent) of a part lie: `silhouette` by filter type, `edit_correlation` (Spearman) of
    their distances with graph edit distances, and `active` dimensions.

    A dimension is active if its mean varies by more than 0.01; source: Burda et al., arXiv:1509.00519, sec. 4.2.
    """
    from scipy.stats import spearmanr
    from sklearn.metrics import silhouette_score
    from threadpoolctl import threadpool_limits

    points = mean.detach().cpu().double().numpy()
    rng = np.random.default_rng(0)
    types = part.circuits.types
    few = rng.permutation(len(points))[:SILHOUETTE_OF]
    silhouette = 0.0
    if 1 < len(np.unique(types[few])) < len(few):
        with threadpool_limits(torch.get_num_threads()):
            silhouette = float(silhouette_score(points[few], types[few]))
    one, other = rng.integers(len(points), size=(2, PAIRS_COMPARED))
    far = np.linalg.norm(points[one] - points[other], axis=1)
    edits = edit_distance(part.circuits.mask[one], part.circuits.mask[other])
    varied = min(np.ptp(far), np.ptp(edits)) > 0
    return {
        "silhouette": silhouette,
        "edit_correlation": float(spearmanr(far, edits).statistic) if varied else 0.0,
        "active": float((points.var(axis=0) > 0.01).sum()),
    }
