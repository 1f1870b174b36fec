"""The Fréchet distance of two sets of images: of Gaussians fitted to their features."""

import torch
from torch import Tensor

from diffuscope.errors import InputError, Unquoted


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` of features [N,F] and [M,F] (Heusel et al. 2017, equation 6).

    With X and Y the centred features over sqrt(N - 1) and sqrt(M - 1), S1 = X^T X and S2 = Y^T Y, and the trace of the
    root is the sum of the singular values of X Y^T [N,M], without a matrix root. The distance falls as N and M grow,
    so only distances of equal sizes may be compared.
    """
    for name, features in (("first", first), ("second", second)):
        if len(features) < 2:
            raise InputError(name, Unquoted(f"features of {len(features)} images"), "at least two")
    x, y = first.double(), second.double()
    between_means = (x.mean(0) - y.mean(0)).square().sum()
    x, y = (z - z.mean(0) for z in (x, y))
    x, y = (z / (len(z) - 1) ** 0.5 for z in (x, y))
    common = torch.linalg.svdvals(x @ y.T).sum()
    return (between_means + x.square().sum() + y.square().sum() - 2 * common).item()
