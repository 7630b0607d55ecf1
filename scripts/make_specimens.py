"""Writes the specimens of tests/specimens: what decodes say, by the NumPy decoder of the laws, and one file of each format.

    python scripts/make_specimens.py tokens       # after `calm_jax.formats.SEMANTICS` has risen
    python scripts/make_specimens.py formats      # once for each version of a format; older specimens stay beside it

Run it from the top of a checkout.
"""

import json
import math
import pathlib
import sys

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from calm_jax.calibrating import calibrate_model  # noqa: E402
from calm_jax.checkpoints import native  # noqa: E402
from calm_jax.data.tokenizers import ByteTokenizer  # noqa: E402
from calm_jax.decoding import codec  # noqa: E402
from calm_jax.decoding.decoding import Decoding, Limits  # noqa: E402
from calm_jax.decoding.propagation import CopyKV, FirstState  # noqa: E402
from calm_jax.depth.confidence import Classifier, SoftmaxGap, StateSimilarity  # noqa: E402
from calm_jax.depth.contrast import WeightedContrast  # noqa: E402
from calm_jax.depth.exits import Exit  # noqa: E402
from calm_jax.depth.plans import Uniform, uniform_layers  # noqa: E402
from calm_jax.depth.thresholds import Decaying  # noqa: E402
from calm_jax.depth.vocabulary import FixedPruning, FrequentIds  # noqa: E402
from calm_jax.files import write_json  # noqa: E402
from calm_jax.formats import SEMANTICS, VERSIONS  # noqa: E402
from calm_jax.model import load  # noqa: E402
from calm_jax.models.config import TransformerConfig  # noqa: E402
from calm_jax.models.transformer import init_params  # noqa: E402
from calm_jax.sweep import points_of  # noqa: E402
from tests.laws import definitions  # noqa: E402

SPECIMENS = pathlib.Path(__file__).parents[1] / 'tests' / 'specimens'
LENGTH = definitions.LENGTH
IDS = np.array([7, 1, 12, 4, 9, 2, 13, 0], np.int32)
CLASSIFIER = {'kernel': definitions.KERNEL.astype(np.float32), 'bias': np.zeros(1, np.float32)}


def never(layer, position, hidden, previous, logits):
    """The exit rule of full depth."""
    return math.inf, False


def constant(threshold):
    """position → λ_t."""
    return lambda position: threshold


def decaying(threshold, temperature):
    """position → λ_t of Eq. 5."""
    return lambda position: float(np.clip(0.9 * threshold + 0.1 * np.exp(-temperature * position / LENGTH), 0, 1))


def cases():
    """(name, decoding, the exit rule by definition, its thresholds, options of the definition's decode)."""
    pruned, layers = FixedPruning(keep=4), uniform_layers(2, 3)
    gap = Exit(SoftmaxGap(), 0.35)
    planned = {'sub_layers': lambda position, layer: (bool(layers[layer]),) * 3}
    return [
        ('full depth', {}, never, constant(0), {}),
        ('softmax gap', {'exit': gap}, definitions.gap(0.35), constant(0.35), {}),
        (
            'classifier, decaying threshold',
            {'exit': Exit(Classifier(**CLASSIFIER), 0.5, Decaying(4.0))},
            definitions.decaying_classifier(0.5, 4.0),
            decaying(0.5, 4.0),
            {},
        ),
        ('state', {'exit': Exit(StateSimilarity(), 0.8)}, definitions.similarity(0.8), constant(0.8), {}),
        (
            'pruned softmax gap',
            {'exit': Exit(SoftmaxGap(pruned), 0.55)},
            definitions.pruned_gap(0.55, pruned),
            constant(0.55),
            {},
        ),
        (
            'softmax gap of listed ids',
            {'exit': Exit(SoftmaxGap(FrequentIds(IDS, 5)), 0.6)},
            definitions.listed(definitions.gap(0.6), IDS[:5]),
            constant(0.6),
            {},
        ),
        (
            'weighted contrast',
            {'exit': Exit(WeightedContrast(), 0.5)},
            definitions.contrast(0.5, definitions.half),
            constant(0.5),
            {},
        ),
        ('uniform plan', {'plan': Uniform(2 / 3)}, never, constant(0), planned),
        (
            "the first layer's state",
            {'exit': gap, 'propagation': FirstState()},
            definitions.gap(0.35),
            constant(0.35),
            {'stand_in': 'first'},
        ),
        (
            'copied keys and values',
            {'exit': gap, 'propagation': CopyKV()},
            definitions.gap(0.35),
            constant(0.35),
            {'stand_in': 'kv'},
        ),
    ]


def tokens() -> dict:
    """What tokens.json holds."""
    config = definitions.tiny_config()
    decoder = definitions.Definition(config, definitions.tiny_params(config))
    made = []
    for name, parts, leaves, threshold_at, options in cases():
        decoding = Decoding(limits=Limits(max_source_length=6, max_new_tokens=LENGTH), **parts)
        rows = [watched(decoder, source, leaves, threshold_at, options) for source in definitions.tiny_sources()]
        columns = dict(zip(('tokens', 'exit_layers', 'margins'), map(list, zip(*rows))))
        made.append({'name': name, 'decoding': codec.to_json(decoding), **columns})
    heads = {'exit_classifier': CLASSIFIER, 'frequent_ids': {'ids': IDS}}
    held = {head: {name: np.asarray(array).tolist() for name, array in arrays.items()} for head, arrays in heads.items()}
    return {'semantics': SEMANTICS, 'heads': held, 'cases': made}


def watched(decoder, source, leaves, threshold_at, options):
    """(tokens, exit layers, margins) of one source: how far the closest decision of each token is from falling otherwise."""
    margins = {}

    def watching(layer, position, hidden, previous, logits):
        confidence, left, *token = leaves(layer, position, hidden, previous, logits)
        decided = margins.get(position, (math.inf, 0))[0]
        if math.isfinite(confidence) and layer + 1 < decoder.config.num_decoder_layers:
            decided = min(decided, abs(confidence - threshold_at(position)))
        top = np.sort(logits)
        margins[position] = decided, top[-1] - top[-2]
        return (1.0 if math.isinf(confidence) else confidence), left, *token

    reference = decoder.decode(source, LENGTH, watching, **options)
    closest = [round(float(min(margins[position])), 6) for position in range(len(reference.tokens))]
    return reference.tokens, reference.exit_layers, closest


def formats(folder):
    """A native checkpoint, calibration data, their records at full depth and at three points, and the certificate of those."""
    config = TransformerConfig(
        vocab_size=259, emb_dim=8, num_heads=1, head_dim=8, mlp_dim=8, num_encoder_layers=1, num_decoder_layers=3
    )
    params = jax.tree.map(np.array, init_params(config, jax.random.key(1)))
    head = {'kernel': np.linspace(-0.3, 0.3, 8, dtype=np.float32)[:, None], 'bias': np.zeros(1, np.float32)}
    generation = {'limits': {'max_source_length': 16, 'max_new_tokens': 6}}
    native.save(folder / 'model', config, params, ByteTokenizer(), {'exit_classifier': head}, generation)
    data = folder / 'cal.jsonl'
    data.write_text(''.join(json.dumps({'id': f'row {i}', 'en': f'horse {i * i}'}) + '\n' for i in range(12)))
    model = load(folder / 'model')
    classifier = Classifier(**model.heads['exit_classifier'])
    points = [
        *points_of(Decoding(exit=Exit(classifier, form=Decaying(4.0))), [0.9, 0.5]),
        Decoding(exit=Exit(SoftmaxGap(FixedPruning(keep=9)), 0.1), plan=Uniform(0.6)),
    ]
    options = {'metric': 'accuracy', 'tolerance': 0.99, 'source_field': 'en', 'batch_size': 8}
    calibrate_model(model, data, points, records=folder / 'records', **options).save(folder / 'certificate.json')


def main(what):
    """Writes them."""
    if what == 'tokens':
        write_json(SPECIMENS / 'tokens.json', tokens(), make_folders=True)
        return
    if what == 'formats':
        return formats(SPECIMENS / f'version_{VERSIONS["records"]}')
    raise SystemExit(f'{what}: expected tokens or formats')


if __name__ == '__main__':
    main(*sys.argv[1:])
