"""Two-sample tests of generated tokens against real ones: a classifier's AUC and a Wasserstein distance."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gatesweep.core.trainable import Metrics
from gatesweep.trainables.autoencoders.data import Batch, EventData, TokenData

CLASSIFIER_TOKENS = 9000  # tokens of each kind, at most, for the classifier: half to train on, half to test on
PROJECTIONS = 64  # directions of the sliced Wasserstein distance
LARGE = 1e6  # larger values are clipped before the classifier


def compare(data: TokenData, generated: Batch, real: Batch) -> Metrics:
    """Return `two_sample_auc` and `sliced_w1` of generated tokens against real ones, and `sample_closure` for events.

    Both batches are features (B, T, F) and ids (B, T). Both tests use physical units: (cos phi, sin phi) of an object
    becomes the angle phi, so the tests cannot see the length r of this vector. `sample_closure` measures it: it is the
    mean of |r - 1|.
    """
    tokens, ids = _tokens(generated)
    real_tokens, real_ids = _tokens(real)
    values, real_values = data.physical(tokens), data.physical(real_tokens)
    metrics = {
        "two_sample_auc": classifier_auc(real_values, values, real_ids, ids),
        "sliced_w1": sliced_wasserstein(real_values, values),
    }
    return metrics | ({"sample_closure": data.closure(tokens).mean().item()} if isinstance(data, EventData) else {})


def classifier_auc(real: Tensor, generated: Tensor, real_ids: Tensor, ids: Tensor) -> float:
    """Return the AUC of a classifier that tells generated tokens (m, F), ids (m,), from real ones (n, F), ids (n,).

    The AUC is the area under the ROC curve of gradient-boosted trees, on tokens that they were not trained on. It is
    0.5 if the classifier cannot tell the two apart, and 1 if it always can. The subset of tokens is the same at every
    call; with CLASSIFIER_TOKENS of each kind the standard error is 0.004.

    Source: Lopez-Paz and Oquab, arXiv:1610.06545.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(0)
    count = min(CLASSIFIER_TOKENS, len(real), len(generated))
    tables = []
    for tokens, token_ids in ((real, real_ids), (generated, ids)):
        rows = torch.from_numpy(rng.permutation(len(tokens))[:count]).to(tokens.device)
        values = tokens[rows].float().clamp(-LARGE, LARGE)  # the trees accept no infinities
        tables.append(torch.cat([values, token_ids[rows, None].float()], dim=1).cpu().numpy())
    n_train = count // 2
    train = np.concatenate([table[:n_train] for table in tables])
    test = np.concatenate([table[n_train:] for table in tables])
    train_labels, test_labels = (np.repeat([0, 1], size) for size in (n_train, count - n_train))
    trees = HistGradientBoostingClassifier(categorical_features=[real.shape[1]], random_state=0)
    with threadpool_limits(torch.get_num_threads()):  # the trees use OpenMP, which does not follow torch's limit
        probabilities = trees.fit(train, train_labels).predict_proba(test)[:, 1]
    return float(roc_auc_score(test_labels, probabilities))


def sliced_wasserstein(real: Tensor, generated: Tensor) -> float:
    """Return the Wasserstein-1 distance of points (m, F) to real points (n, F), averaged over random directions.

    Coordinates are in units of the real points' standard deviation. The directions are the same at every call.
    Source: Bonneel et al., J. Math. Imaging Vis. 51 (2015) 22.
    """
    draws = torch.Generator().manual_seed(0)
    directions = torch.randn(real.shape[1], PROJECTIONS, generator=draws).to(real)
    directions /= torch.linalg.vector_norm(directions, dim=0)
    scale = real.std(dim=0)
    scale = torch.where(scale > 0, scale, 1.0)
    return _wasserstein((real / scale) @ directions, (generated / scale) @ directions).mean().item()


def _wasserstein(first: Tensor, second: Tensor) -> Tensor:
    """Return the distance (P,) of each column of `first` (n, P) to that of `second` (m, P).

    In one dimension the Wasserstein-1 distance is the area between the two cumulative distribution functions.
    """
    first, second = (values.T.contiguous().sort(dim=1).values for values in (first, second))
    points = torch.cat([first, second], dim=1).sort(dim=1).values
    cdfs = [torch.searchsorted(values, points, right=True).to(points) / values.shape[1] for values in (first, second)]
    return ((cdfs[0] - cdfs[1]).abs()[:, :-1] * points.diff(dim=1)).sum(dim=1)


def _tokens(batch: Batch) -> Batch:
    """Return the tokens of a batch without its padding: features (n, F) and ids (n,)."""
    features, ids = batch
    present = ids > 0
    return features[present].float(), ids[present]
