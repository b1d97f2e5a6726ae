"""Fits the constants of a runtime to measured times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgedistil.costmodel.constants import Constants, CostVector

# Weight of the prior's residuals: moving the logarithm of a constant by 1 costs as much as one
# measured time whose logarithm is off by 0.3.
_PRIOR_WEIGHT = 0.3
# Tighter than scipy's 1e-8, so that the fit does not depend on where the solver stops.
_FIT_TOLERANCE = 1e-14


def fit_constants(samples: Sequence[tuple[CostVector, float]], prior: Constants) -> Constants:
    """Fits constants to measured times; constants that the times do not determine stay at `prior`.

    Nonlinear least squares on the logarithms of times and unit costs, with the distance from the
    prior as further residuals.

    Args:
        samples: (`cost_terms`, measured seconds) of each run.
        prior: Starting point, and centre of the prior.
    Returns:
        `prior` with the fitted constants; `spread` and the origins are the caller's to set.
    """
    # Imported here: predictions do not need scipy, and importing it is slow.
    from scipy.optimize import least_squares

    terms = np.array([sample_terms for sample_terms, _ in samples])
    log_measured = np.log([seconds for _, seconds in samples])
    log_prior = np.log(prior.unit_costs)

    def residuals(log_costs: CostVector) -> CostVector:
        log_predicted = np.log(terms @ np.exp(log_costs))
        prior_residuals = _PRIOR_WEIGHT * (log_costs - log_prior)
        return np.concatenate([log_predicted - log_measured, prior_residuals])

    def jacobian(log_costs: CostVector) -> CostVector:
        parts = terms * np.exp(log_costs)
        shares = parts / parts.sum(axis=1, keepdims=True)
        return np.vstack([shares, _PRIOR_WEIGHT * np.eye(len(log_costs))])

    solution = least_squares(
        residuals,
        log_prior,
        jac=jacobian,
        xtol=_FIT_TOLERANCE,
        ftol=_FIT_TOLERANCE,
        gtol=_FIT_TOLERANCE,
    )
    return prior.with_unit_costs(np.exp(solution.x))
