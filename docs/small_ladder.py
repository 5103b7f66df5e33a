import jax
import jax.numpy as jnp
import mlem_jax as mlem

SPREAD = 0.1
process = mlem.process.cosine()


def denoise(points, x, t):
    """E[x_0 | x_t = x], of data that is one of the points plus noise of deviation SPREAD."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    variance = (alpha * SPREAD) ** 2 + sigma**2
    apart = x[:, None] - alpha * points[None]  # [batch, points, 2]
    weights = jax.nn.softmax(-(apart**2).sum(-1) / (2 * variance), axis=1)
    moved = points[None] + alpha * SPREAD**2 / variance * apart
    return (weights[..., None] * moved).sum(1)


angle = jnp.linspace(1.0, 10.0, 192)
spiral = jnp.stack([angle * jnp.cos(angle), angle * jnp.sin(angle)], axis=1) / 10

# Level k knows every 16th, every 4th, every point: its cost is the number of its points.
params = (spiral[8::16], spiral[2::4], spiral)
ladder = mlem.Ladder((denoise,) * 3, params, (12.0, 48.0, 192.0))

grid = mlem.grids.uniform_grid(process.end, 0.0, 200)
steps = mlem.steps.ddpm(process, grid)
samples = jnp.arange(256)
x = mlem.draw_starts(jax.random.key(0), samples, (2,))
problem = mlem.Problem(x, mlem.brownian_path(jax.random.key(1), steps, samples=samples))
