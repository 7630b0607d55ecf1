"""Draws where the rules of a constrained step lead: docs/figures/policy/rules.png.

    python scripts/rule_trajectories.py [--output FILE.png]

On the plane with loss q = x² + y², cost f = (x − 3)² + y² and bound c = 1 the cost is least within the bound at (1, 0), the
loss alone at (0, 0). Run it from the top of a checkout.
"""

import argparse
import pathlib
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from calm_jax.reporting.figures import Drawing, head, render  # noqa: E402
from calm_jax.reporting.palette import LIGHT  # noqa: E402
from calm_jax.training.constrained import DualAscent, DynamicBarrier, FixedWeight, PrintedBarrier, Rule  # noqa: E402

FIGURE = pathlib.Path(__file__).parents[1] / 'docs' / 'figures' / 'policy' / 'rules.png'
RULES = {
    'dynamic barrier, of the prose': DynamicBarrier(),
    'dual ascent': DualAscent(rate=0.05),
    'the formula as printed': PrintedBarrier(),
    'fixed weight .2': FixedWeight(0.2),
}
STARTS = ((-1.0, 1.0), (4.0, 1.0), (0.5, 0.5), (0.0, 3.0))
STEPS, RATE = 20_000, 0.01


def loss(point: jax.Array) -> jax.Array:
    """q."""
    return jnp.sum(point**2)


def cost(point: jax.Array) -> jax.Array:
    """f."""
    return (point[0] - 3) ** 2 + point[1] ** 2


def trajectory(rule: Rule, start: tuple[float, float]) -> np.ndarray:
    """The points that steps of a rule come to, the start first, [1 + steps, 2]."""
    transformation = rule.build()

    def step(carry, _):
        point, state = carry
        gradient, excess = jax.grad(loss)(point), loss(point) - 1
        direction, state = transformation.update(gradient, state, cost=jax.grad(cost)(point), excess=excess)
        return (point - RATE * direction, state), point

    @jax.jit
    def run(point):
        (end, _), points = jax.lax.scan(step, (point, transformation.init(point)), length=STEPS)
        return jnp.concatenate([points, end[None]])

    return np.asarray(run(jnp.array(start)))


def draw(paths: dict[str, list[np.ndarray]]) -> Figure:
    """A plane for each rule."""
    figure = Figure(figsize=(6.2, 5.2))
    for axes, (name, points) in zip(figure.subplots(2, 2, sharex=True, sharey=True).ravel(), paths.items()):
        axes.add_patch(Circle((0, 0), 1, facecolor=LIGHT.grid, edgecolor=LIGHT.muted, linewidth=0.8))
        for place, path in enumerate(points):
            axes.plot(*path.T, color=LIGHT.series[place], linewidth=1.3)
            axes.plot(*path[0], marker='o', markersize=4.5, color=LIGHT.series[place])
        axes.plot(3, 0, marker='+', markersize=9, color=LIGHT.ink)
        axes.plot(*points[0][-1], marker='X', markersize=8, color=LIGHT.ink)
        axes.set_aspect('equal')
        axes.set_xlim(-1.4, 4.4)
        axes.set_ylim(-1.3, 3.3)
        head(axes, f'{name}: to ({", ".join(f"{abs(round(float(x), 2)):g}" for x in points[0][-1])})')
    return figure


def main() -> None:
    """Writes the figure, and says where every path ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--output', type=pathlib.Path, default=FIGURE, metavar='FILE.png', help='picture to write')
    output = parser.parse_args().output
    paths = {name: [trajectory(rule, start) for start in STARTS] for name, rule in RULES.items()}
    for name, points in paths.items():
        print(f'{name}: {" ".join(f"({path[-1][0]:.3f}, {path[-1][1]:.3f})" for path in points)}')
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(render(Drawing('rules', 'Where rules lead', '', partial(draw, paths))).png)


if __name__ == '__main__':
    main()
