"""The objectives of distillation, written in angles.

Noisy latents of unit variance are ``z = cos(phi) x0 + sin(phi) noise`` with ``phi = atan(sigma)``, from 0 (clean) to
pi/2 (pure noise). Then the v-prediction is the velocity ``dz/dphi = cos(phi) noise - sin(phi) x0`` (Salimans & Ho 2022,
appendix D; TrigFlow of Lu & Song 2024 with unit data), and a DDIM step is a rotation in the plane of ``z`` and ``v``:
``z' = cos(d) z - sin(d) v`` for a step down by the angle ``d``.

Angles are tensors [B,1,1,1] or [], latents [B,C,H,W]. No function here knows a network's clock or text.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.func import jvp

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(z, phi) -> v: an ordinary v-prediction."""

FlowMap = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(z, phi, end) -> the constant velocity whose rotation by ``phi - end`` takes ``z`` to the end of its trajectory."""

Weighting = Literal["snr+1", "truncated"]


def angle_of(sigma: Tensor) -> Tensor:
    """The angle of a noise level."""
    return sigma.atan()


def rotate(z: Tensor, velocity: Tensor, angle: Tensor) -> Tensor:
    """``z`` moved down by ``angle``: one DDIM step (Song et al. 2021, equation 12, eta 0). By all of phi: x0."""
    return angle.cos() * z - angle.sin() * velocity


def velocity_between(z: Tensor, lower: Tensor, angle: Tensor) -> Tensor:
    """The velocity of the one step that takes ``z`` down by ``angle`` to ``lower``: the inverse of ``rotate``."""
    return (angle.cos() * z - lower) / angle.sin()


def guided(conditional: Tensor, unconditional: Tensor, scale: float | Tensor) -> Tensor:
    """Two predictions in one (Ho & Salimans 2022, equation 6): what a guidance-distilled student learns.

    The student of Meng et al. 2023 (section 3.1) reads the scale; one of a fixed scale needs no such input.
    """
    return unconditional + scale * (conditional - unconditional)


def several_steps(teacher: Velocity, z: Tensor, phis: Sequence[Tensor]) -> Tensor:
    """The velocity that makes the teacher's steps along ``phis`` in one: progressive distillation's target.

    With two steps this is Salimans & Ho 2022, algorithm 2: their x-target, written as a velocity. It holds for the
    last step too, which ends at 0.

    Args:
        teacher: the velocity field.
        z: [B,C,H,W] at the first of ``phis``.
        phis: falling angles, at least two.
    """
    lower = z
    for phi, after in pairwise(phis):
        lower = rotate(lower, teacher(lower, phi), phi - after)
    return velocity_between(z, lower, phis[0] - phis[-1])


def loss_weight(phi: Tensor, kind: Weighting) -> Tensor:
    """Weight of the squared error of a velocity (Salimans & Ho 2022, section 4), like ``phi``.

    The paper weights the error of x0, which is sin(phi) times that of v: "snr+1" becomes 1, "truncated" (their
    max(SNR, 1)) the larger of cos^2 and sin^2.
    """
    if kind == "snr+1":
        return torch.ones_like(phi)
    return torch.maximum(phi.cos().square(), phi.sin().square())


def shortcut_target(network: FlowMap, z: Tensor, phi: Tensor, end: Tensor) -> Tensor:
    """The network's own two half steps in one (Frans et al. 2024, equation 5). For no gradient.

    The other rows of a batch, with ``end = phi``, learn the teacher's velocity.
    """
    middle = (phi + end) / 2
    half = (phi - end) / 2
    at_middle = rotate(z, network(z, phi, middle), half)
    lower = rotate(at_middle, network(at_middle, middle, end), half)
    return velocity_between(z, lower, phi - end)


def consistency_target(network: FlowMap, velocity: Tensor, z: Tensor, phi: Tensor, after: Tensor) -> Tensor:
    """What takes ``z`` to the clean latents that the network gives a little further down. For no gradient.

    Consistency distillation (Song et al. 2023, equation 7) with a DDIM step of the teacher as its solver, as latent
    consistency models do it (Luo et al. 2023, algorithm 1); a map that always ends at 0.

    Args:
        network: F, of the student or its average.
        velocity: u, the teacher's velocity at ``z``.
        z: [B,C,H,W] at ``phi``.
        phi: where the step starts.
        after: where it ends, above or at 0.
    """
    lower = rotate(z, velocity, phi - after)
    x0 = rotate(lower, network(lower, after, torch.zeros_like(after)), after)
    return velocity_between(z, x0, phi)


def flow_map_target(
    network: FlowMap, velocity: Tensor, z: Tensor, phi: Tensor, end: Tensor, *, ratio: float = 1.0, step: float = 0.0
) -> Tensor:
    """What a flow map learns when the step goes to zero: its output moved along the tangent. For no gradient.

    With D = phi - end the map is ``f = cos(D) z - sin(D) F``, and along the teacher's trajectory it must not change:
    ``df/dphi = cos(D) (u - F) - sin(D) (z + dF/dphi) = 0`` (Sabour et al. 2025, align your flow, Eulerian form; with
    ``end = 0`` the consistency model of Lu & Song 2024, equation 6). The target is ``F + g`` with g that derivative,
    divided by its length plus 0.1 as there (section 4.1).

    Args:
        network: F.
        velocity: u, the teacher's velocity at ``z``.
        z: [B,C,H,W] at ``phi``.
        phi: where the map starts.
        end: where it ends.
        ratio: weight of the second term, raised from 0 to 1 during a warm-up.
        step: 0 differentiates by a Jacobian-vector product; a positive angle takes the central difference over it,
            for networks without forward-mode derivatives. Either wants float32.
    """
    if step:
        wide = torch.as_tensor(step, dtype=z.dtype, device=z.device)
        above = network(rotate(z, velocity, -wide), phi + wide, end)
        below = network(rotate(z, velocity, wide), phi - wide, end)
        output, change = network(z, phi, end), (above - below) / (2 * wide)
    else:
        tangents = (velocity, torch.ones_like(phi), torch.zeros_like(end))
        output, change = jvp(network, (z, phi, end), tangents)[:2]
    span = phi - end
    tangent = span.cos() * (velocity - output) - ratio * span.sin() * (z + change)
    length = tangent.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return output + tangent / (length + 0.1)


def matching_direction(x0: Tensor, fake: Tensor, real: Tensor) -> Tensor:
    """Where generated latents must move so that their distribution becomes the teacher's. For no gradient.

    Distribution matching distillation (Yin et al. 2024, equations 7 and 8): the difference of the clean estimates that
    the teacher and a network trained on the student's output give for the same noisy latents, over the mean distance
    of the teacher's from ``x0``. The student's loss is half the squared distance of ``x0`` from ``x0 + direction``.

    Args:
        x0: [B,C,H,W] of the student.
        fake: estimates of the network that knows the student's distribution.
        real: estimates of the teacher.
    """
    scale = (x0 - real).abs().mean(dim=(1, 2, 3), keepdim=True)
    return (real - fake) / scale.clamp(min=1e-6)


def sample(network: Velocity, z: Tensor, phis: Sequence[Tensor], order: int = 1) -> list[Tensor]:
    """The states of a deterministic run along falling ``phis``, one network call a step; the last is its result.

    Order 1 is DDIM, order 2 a two-step method: the velocity of the step before, turned to here, says how the present
    one changes, and the exact rotation gets the second-order term of variation of constants.
    """
    states = [z]
    before: tuple[Tensor, Tensor] | None = None  # of the last step: its angle, and its velocity turned to the next
    for phi, after in pairwise(phis):
        z, span = states[-1], phi - after
        velocity = used = network(z, phi)
        if before is not None:
            used = velocity + (velocity - before[1]) * (span / 2).tan() / before[0].sin()
        states.append(rotate(z, used, span))
        if order == 2:
            before = span, span.cos() * velocity + span.sin() * z
    return states
