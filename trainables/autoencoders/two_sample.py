"""Two-sample tests: whether generated tokens can be told from real ones, and how far apart the two clouds are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gatesweep.core.trainable import Metrics
from gatesweep.trainables.autoencoders.data import Batch, EventData, TokenData

JUDGED = 9000  # tokens of each kind, at most, that the classifier sees; half of them to learn from
PROJECTIONS = 64
LARGE = 1e6


def compare(data: TokenData, generated: Batch, real: Batch) -> Metrics:
    """`two_sample_auc` and `sliced_w1` of generated tokens against real ones, and, of events, `sample_closure`.

    Both tests are done in physical units, where a generated token cannot be told by the length of its (cos, sin):
    that is `sample_closure`, the mean of |r - 1|.
    """
    tokens, ids = _tokens(generated)
    real_tokens, real_ids = _tokens(real)
    found, exact = data.physical(tokens), data.physical(real_tokens)
    metrics = {
        "two_sample_auc": classifier_auc(exact, found, real_ids, ids),
        "sliced_w1": sliced_wasserstein(exact, found),
    }
    return metrics | ({"sample_closure": data.closure(tokens).mean().item()} if isinstance(data, EventData) else {})


def classifier_auc(real: Tensor, found: Tensor, real_ids: Tensor, ids: Tensor) -> float:
    """How well a classifier tells real tokens (n, F) with ids (n,) from found ones (m, F) with ids (m,).

    The area under the ROC curve, on held-out tokens, of gradient-boosted trees that learned on the others: 0.5 if
    they cannot be told apart, 1 if they always can. The same tokens of each are drawn every time; with JUDGED of each
    its standard error is 0.004. Source: Lopez-Paz and Oquab, arXiv:1610.06545.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(0)
    kinds = ((real, real_ids), (found, ids))
    count = min(JUDGED, len(real), len(found))
    parts = []
    for tokens, names in kinds:
        drawn = torch.from_numpy(rng.permutation(len(tokens))[:count]).to(tokens.device)
        values = tokens[drawn].float().clamp(-LARGE, LARGE)  # the trees take no infinities
        parts.append(torch.cat([values, names[drawn, None].float()], dim=1).cpu().numpy())
    known = count // 2
    learn, judge = (np.concatenate([part[where] for part in parts]) for where in (slice(known), slice(known, None)))
    answers, truth = (np.repeat([0, 1], size) for size in (known, count - known))
    trees = HistGradientBoostingClassifier(categorical_features=[real.shape[1]], random_state=0)
    with threadpool_limits(torch.get_num_threads()):  # OpenMP's threads are not torch's
        sure = trees.fit(learn, answers).predict_proba(judge)[:, 1]
    return float(roc_auc_score(truth, sure))


def sliced_wasserstein(real: Tensor, found: Tensor) -> float:
    """The mean over directions of the Wasserstein-1 distance of points (m, F) to real points (n, F), along each.

    Coordinates are in units of the real points' standard deviation, and the directions are the same every time.
    Source: Bonneel et al., J. Math. Imaging Vis. 51 (2015) 22.
    """
    draws = torch.Generator().manual_seed(0)
    directions = torch.randn(real.shape[1], PROJECTIONS, generator=draws).to(real)
    directions /= torch.linalg.vector_norm(directions, dim=0)
    scale = real.std(dim=0)
    scale = torch.where(scale > 0, scale, 1.0)
    return _wasserstein((real / scale) @ directions, (found / scale) @ directions).mean().item()


def _wasserstein(one: Tensor, other: Tensor) -> Tensor:
    """(P,): the distance of each column of `one` (n, P) to that of `other` (m, P): the area between their CDFs."""
    one, other = (values.T.contiguous().sort(dim=1).values for values in (one, other))
    points = torch.cat([one, other], dim=1).sort(dim=1).values
    below = [torch.searchsorted(values, points, right=True).to(points) / values.shape[1] for values in (one, other)]
    return ((below[0] - below[1]).abs()[:, :-1] * points.diff(dim=1)).sum(dim=1)


def _tokens(batch: Batch) -> Batch:
    """(n, F), (n,): the tokens of a batch that are none of its padding."""
    features, ids = batch
    present = ids > 0
    return features[present].float(), ids[present]
