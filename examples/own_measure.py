"""A confidence measure of one's own: one minus the entropy of the layer's distribution, as a share of the largest it could be.

    python examples/own_measure.py                                 # after `calm demo`, which leaves calm_demo/
    PYTHONPATH=examples calm generate --checkpoint calm_demo/model --prompt "8 volts" \
        --measure own_measure:NormalizedEntropy --sharpness 2 --threshold 0.9
"""

import jax.numpy as jnp

import calm_jax as calm


@calm.pytree
class NormalizedEntropy(calm.VocabularyMeasure):
    """(1 − H(p) / log K)^sharpness, of the K ids that the measure looks at. It can be pruned: `--vocabulary fixed`."""

    # A field that is an option is a flag, a gin binding and a part of every certificate, and is said nowhere else.
    sharpness: float = calm.option('confidence is raised to this power', default=1.0, metavar='X')

    def score(self, candidates):
        log = candidates.log_probabilities(candidates.logits)
        entropy = -jnp.sum(jnp.exp(log) * log, axis=-1)
        return jnp.clip(1 - entropy / jnp.log(log.shape[-1]), 0, 1) ** self.sharpness


def main():
    """Decodes two texts with it, and shows at which layers their tokens left."""
    model = calm.load('calm_demo/model')
    texts = ['either 2,497 centimeters or 8 volts', 'Monday, May 5, 2025']
    for output in model.generate(texts, exit=calm.Exit(NormalizedEntropy(sharpness=2.0), threshold=0.9)):
        depths = ' '.join(f'{piece}:{layer}' for piece, layer in zip(output.pieces, output.exit_layers))
        print(f'{output.text}   ({output.layers:.1f} of {model.config.num_decoder_layers} layers: {depths})')


if __name__ == '__main__':
    main()
