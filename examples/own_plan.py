"""A plan of one's own: inputs whose states are alike after one encoder layer skip feed-forwards in the decoder's upper half.

python examples/own_plan.py                                    # after `calm demo`, which leaves calm_demo/
PYTHONPATH=examples calm generate --checkpoint calm_demo/model --prompt "8 volts" --plan own_plan:SkipWhereAlike --likeness 0.2
"""

import jax.numpy as jnp

import calm_jax as calm


@calm.pytree
class SkipWhereAlike(calm.PlanMaker):
    """Rows whose likeness |mean of states|² / mean of |state|² is above the dial skip them: at 1, which none exceeds, none."""

    likeness: float = calm.option('inputs whose states are more alike skip feed-forwards', default=0.25, metavar='X')

    dial = 'likeness'  # in [0, 1]; 1 turns the plan off
    after = 1  # it is asked after so many encoder layers, and gets their states

    def __call__(self, context):
        assert context.hidden is not None  # `after` is not 0
        there, sizes = context.mask[:, :, None], context.sizes
        states = jnp.where(there, context.hidden, 0)
        count = jnp.maximum(jnp.sum(there, axis=1), 1)
        mean = jnp.sum(states, axis=1) / count
        likeness = jnp.sum(mean**2, axis=1) / (jnp.sum(states**2, axis=(1, 2)) / count[:, 0])
        upper = jnp.arange(sizes.layers) >= sizes.layers // 2
        skips = (likeness > self.likeness)[:, None] & upper
        encoder = jnp.ones((len(likeness), sizes.encoder_layers), bool)
        return calm.Plan(jnp.ones_like(skips), jnp.ones_like(skips), ~skips, encoder, encoder)

    def flops(self, sizes):
        return 4 * sizes.width


def main():
    """Decodes texts within it and at full depth."""
    model = calm.load('calm_demo/model')
    for text in ('8 volts', 'either 2,497 centimeters or 8 volts', 'Monday, May 5, 2025'):
        planned, full = model.generate(text, plan=SkipWhereAlike(likeness=0.25)), model.generate(text)
        saved = 1 - planned.flops / full.flops
        print(f'{planned.text}   ({planned.layers:.2f} layers, {saved:.0%} of FLOPs saved; at full depth: {full.text})')


if __name__ == '__main__':
    main()
