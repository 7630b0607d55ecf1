"""A decoding in gin: every part an @Class() with fields of its own."""

import pytest

from calm_jax.commands import configuration
from calm_jax.decoding.choice import Sampled
from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.depth.confidence import SoftmaxGap
from calm_jax.depth.exits import Exit
from calm_jax.depth.thresholds import Decaying
from calm_jax.depth.vocabulary import FixedPruning

BOUND = ['Decoding.exit = @Exit()', 'Exit.measure = @SoftmaxGap()', 'Exit.threshold = 0.25']


def test_nothing_bound_is_nothing_said():
    assert configuration.decoding_bindings([], []) == {}


def test_every_part_of_a_decoding_can_be_bound(tmp_path):
    (tmp_path / 'mine.gin').write_text(
        'LAMBDA = 0.75\nExit.threshold = %LAMBDA\nExit.form = @Decaying()\nDecaying.temperature = 2.0\n'
        'SoftmaxGap.vocabulary = @FixedPruning()\nFixedPruning.keep = 32\n'
        'Decoding.choice = @Sampled()\nSampled.top_k = 5\nDecoding.limits = @Limits()\nLimits.max_new_tokens = 9\n'
    )
    bound = configuration.decoding_bindings(['mine.gin'], [*BOUND[:2], 'LAMBDA = 0.5', 'Decoding.seed = 3'], [str(tmp_path)])
    exit = Exit(SoftmaxGap(FixedPruning(keep=32)), 0.5, Decaying(2.0))
    assert bound == {'exit': exit, 'choice': Sampled(top_k=5), 'limits': Limits(max_new_tokens=9), 'seed': 3}
    assert type(bound['exit']) is Exit and type(bound['exit'].measure) is SoftmaxGap
    assert Decoding(**bound).resolved().exit == exit


def test_a_measure_of_the_user_s_own_stands_where_the_library_s_do(tmp_path, monkeypatch):
    (tmp_path / 'own_measure.py').write_text(
        'import gin\nfrom calm_jax.depth.confidence import Measure\nfrom calm_jax.pytrees import pytree\n'
        '@gin.register\n@pytree\nclass Own(Measure):\n    scale: float = 1.0\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    bound = configuration.decoding_bindings([], ['import own_measure', *BOUND, 'Exit.measure = @Own()', 'Own.scale = 2.0'])
    assert (type(bound['exit'].measure).__name__, bound['exit'].measure.scale) == ('Own', 2.0)


MEASURES = '@SoftmaxGap() or @SoftmaxMax() or @StateSimilarity() or @WeightedContrast() or @DivergentContrast() or @Oracle()'


@pytest.mark.parametrize(
    'bindings, message',
    [
        (['Exit.threshold = 2.0'], 'threshold is 2.0; expected λ in [0, 1], where 1 is off'),
        (['Decoding.exit = @Rules()'], 'Decoding.exit is @Rules(); expected @Exit() or None'),
        (['Exit.measure = @Lazy()'], f'Exit.measure is @Lazy(); expected {MEASURES} or @StaticDepth()'),
        (["Exit.measure = 'softmax_gap'"], f"Exit.measure is 'softmax_gap'; expected {MEASURES} or @StaticDepth()"),
        (["Exit.min_exit_layer = 'a'"], "Exit.min_exit_layer is 'a'; expected a whole number"),
        (['Exit.treshold = 0.5'], '--gin.Exit.treshold = 0.5: Exit has no treshold; did you mean threshold?'),
        (
            ['Decoding.choice = @Sampeld()'],
            '--gin.Decoding.choice = @Sampeld(): nothing is called Sampeld; did you mean Sampled?',
        ),
    ],
)
def test_a_decoding_that_cannot_be_meant_is_refused_in_one_line(bindings, message):
    with pytest.raises(ValueError) as error:
        configuration.decoding_bindings([], [*BOUND, *bindings])
    assert str(error.value) == message


def test_a_part_that_lacks_what_it_needs_is_named():
    with pytest.raises(ValueError, match=r'^Exit lacks measure: add a gin file that sets them, or --gin.Exit.measure=\.\.\.$'):
        configuration.decoding_bindings([], BOUND[:1])
