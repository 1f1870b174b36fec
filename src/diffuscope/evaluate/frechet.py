"""How far one crowd of pictures is from another: the Fréchet distance of Gaussians fitted to their features."""

import torch
from torch import Tensor

from diffuscope.errors import InputError


def frechet_distance(ours: Tensor, theirs: Tensor) -> float:
    """``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` of features [N,F] and [M,F] (Heusel et al. 2017, equation 6).

    With X and Y the centred features over sqrt(N - 1) and sqrt(M - 1), S1 = X^T X and S2 = Y^T Y, and the trace of the
    root is the sum of the singular values of X Y^T [N,M]: no root of a matrix is taken. The number falls as N and M
    grow, so only distances at equal sizes may be compared.
    """
    if min(len(ours), len(theirs)) < 2:
        raise InputError(f"{len(ours)} and {len(theirs)} pictures; a distance of crowds needs at least two of each")
    x, y = ours.double(), theirs.double()
    apart = (x.mean(0) - y.mean(0)).square().sum()
    x, y = (z - z.mean(0) for z in (x, y))
    x, y = (z / (len(z) - 1) ** 0.5 for z in (x, y))
    common = torch.linalg.svdvals(x @ y.T).sum()
    return (apart + x.square().sum() + y.square().sum() - 2 * common).item()
