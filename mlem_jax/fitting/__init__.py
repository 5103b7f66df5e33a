"""Fitted plans: weights by least squares along the method's own path, and the choice of places."""

from mlem_jax.fitting.candidates import Candidate, Search, tables_of
from mlem_jax.fitting.choose import Choice, choose_plan
from mlem_jax.fitting.fine import Fine, along, fine_solution, part_of, states_on
from mlem_jax.fitting.fit import Fit, fit_plan
from mlem_jax.fitting.places import Density, density_of, place_levels, sensitivities_on

__all__ = [
    "Candidate",
    "Choice",
    "Density",
    "Fine",
    "Fit",
    "Search",
    "along",
    "choose_plan",
    "density_of",
    "fine_solution",
    "fit_plan",
    "part_of",
    "place_levels",
    "sensitivities_on",
    "states_on",
    "tables_of",
]
