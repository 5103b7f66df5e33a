"""Fitted plans: weights by least squares along the method's own path, and the choice of places."""

from mlem_jax.fitting.fit import Fit, fit_plan

__all__ = ["Fit", "fit_plan"]
