"""Stub until merged."""



def cost_at_error(costs, errors, wanted):
    raise NotImplementedError
