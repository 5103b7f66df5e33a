"""The paper's own method and figures."""
