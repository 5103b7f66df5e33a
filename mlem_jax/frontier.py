"""Stub until merged."""

import numpy as np


def cost_at_error(costs, errors, wanted):
    raise NotImplementedError
