"""Double precision in every test: identities are then tested to 1e-12."""

import jax

jax.config.update("jax_enable_x64", True)
