"""Evidence of a head of five words that is the identity: states are logits."""

import jax.numpy as jnp
import pytest

from calm_jax.decoding.layer_loop import CountedHead
from calm_jax.types import Evidence, HeadColumns, HeadRows, Sizes

SIZES = Sizes(layers=4, width=5, vocabulary=5, embedding=5)


def unembed(state, part=None, method='unembed'):
    """The head that is the identity, of all ids or of rows or columns of it."""
    if isinstance(part, HeadColumns):
        return state @ part.weight
    return state if part is None else jnp.einsum('bd,bkd->bk', state, part.weight)


def columns_of(measure):
    """What the identity has of the ids that a measure lists."""
    return None if measure.listed is None else HeadColumns(jnp.eye(5)[:, measure.listed], None)


def evidence_of(layer, probabilities, every_layer=True, ran=None, decides=True):
    """What a head that is the identity makes of states that are logits: softmax gives the probabilities back."""
    states = jnp.log(jnp.atleast_2d(jnp.asarray(probabilities, jnp.float32)))
    rows = len(states)

    def logits(part=None, state=None, asked=None):
        return unembed(states if state is None else state, part)

    def choose(logits, ids=None):
        best = jnp.argmax(logits, axis=-1)
        return best if ids is None else jnp.take_along_axis(ids, best[:, None], axis=1)[:, 0]

    return Evidence(
        layer=layer,
        num_layers=SIZES.layers,
        position=jnp.zeros(rows, jnp.int32),
        hidden=states,
        previous=states,
        ran=jnp.ones(rows, bool) if ran is None else ran,
        oracle=None,
        logits=logits,
        head_rows=lambda ids: HeadRows(jnp.eye(5)[ids], None),
        choose=choose,
        decides=decides,
        every_layer=every_layer,
    )


def observe_layers(measure, *layers):
    """(confidence, token) at each of the layers, of one row."""
    memory, seen = measure.init(1, SIZES), []
    for layer, probabilities in enumerate(layers):
        evidence = evidence_of(layer, probabilities)._replace(head_columns=columns_of(measure))
        memory, confidence, token = measure.observe(memory, evidence)
        seen.append((float(confidence[0]), None if token is None else int(token[0])))
    return seen


def count_layers(measure, decides=True):
    """[states put through the head, ids scored] at each layer, of one row."""
    memory, counts = measure.init(1, SIZES), []
    for layer in range(SIZES.layers):
        evidence = evidence_of(layer, [0.4, 0.3, 0.15, 0.1, 0.05], decides=decides)
        head = CountedHead(unembed, evidence.hidden, evidence.ran, [])
        memory, _, _ = measure.observe(memory, evidence._replace(logits=head, head_columns=columns_of(measure)))
        counts.append(head.work(0)[0, :2].tolist())
    return counts


@pytest.fixture
def sizes():
    return SIZES


@pytest.fixture
def evidence():
    return evidence_of


@pytest.fixture
def observed():
    return observe_layers


@pytest.fixture
def counted():
    return count_layers
