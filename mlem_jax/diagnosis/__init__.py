"""What a ladder is worth: one pilot run, what follows from it, and a check."""

from mlem_jax.diagnosis.diagnose import Diagnosis, diagnose
from mlem_jax.diagnosis.intervals import Interval, fit_gamma, interval, resample
from mlem_jax.diagnosis.pilot import (
    Pilot,
    Sensitivities,
    measure_sensitivities,
    predict_error,
    run_pilot,
)
from mlem_jax.diagnosis.report import report
from mlem_jax.diagnosis.subsets import gates_at_budget, subset_sensitivities

__all__ = [
    "Diagnosis",
    "Interval",
    "Pilot",
    "Sensitivities",
    "diagnose",
    "fit_gamma",
    "gates_at_budget",
    "interval",
    "measure_sensitivities",
    "predict_error",
    "report",
    "resample",
    "run_pilot",
    "subset_sensitivities",
]
