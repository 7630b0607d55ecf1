"""Beam search at full depth, or within a plan: the likeliest sequences that a few running ones lead to."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from calm_jax.decoding import layer_loop
from calm_jax.decoding.constraints import Constraints
from calm_jax.decoding.layer_loop import Decisions, Layers, Step
from calm_jax.decoding.propagation import Lazy
from calm_jax.decoding.start import begin
from calm_jax.models.transformer import Transformer
from calm_jax.pytrees import pytree
from calm_jax.types import Array, Trace

IMPOSSIBLE = -1e9


@pytree(static=('size', 'early_stopping'))
class Beam:
    """size: K sequences run side by side. length_penalty: finished sequences are compared by log-probability / lengthᵖ.
    early_stopping: True ends a row when it has K finished ones; False, when no running one scores higher at its present length;
    'never', when none could at any length.

    Raises ValueError for a size below 1 and another kind of early stopping.
    """

    size: int = 4
    length_penalty: float = 1.0
    early_stopping: bool | str = False

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f'beams are {self.size}; expected 1 or more')
        if self.early_stopping not in (True, False, 'never'):
            raise ValueError(f'early_stopping is {self.early_stopping!r}; expected True, False or "never"')


class Search(NamedTuple):
    """What the loop carries. tokens: int32 [B, K, T] and scores: float32 [B, K], of running sequences, best first; finished,
    finished_scores, lengths, ended: the same of finished ones, how long they are, and which are there; improvable: bool [B],
    whether a running sequence may still beat them; stuck: whether every candidate ended; layers: the decoder's memory."""

    step: Array
    tokens: Array
    scores: Array
    finished: Array
    finished_scores: Array
    lengths: Array
    ended: Array
    improvable: Array
    stuck: Array
    layers: Layers


@partial(jax.jit, static_argnames=('config', 'max_new_tokens'))
def beam_search(config, params, tokens, *, max_new_tokens, beam=Beam(), plan=None, constraints=Constraints()):
    """Decodes a batch by beam search as Hugging Face transformers does, token for token.

    config, params, tokens, max_new_tokens, plan: as `generate` takes them. Sequences of a row share its plan. Returns the
    Trace of each row's best finished sequence.
    """
    rows, size, length = tokens.shape[0], beam.size, max_new_tokens
    model = Transformer(config)

    def call(*args, method):
        return model.apply({'params': params}, *args, method=method)

    # Any gate needs its own keys and memory per sequence; exits would leave sequences of one row at unlike depths.
    start = begin(call, config, tokens, length, Decisions(None, None, plan, Lazy()))
    repeat = partial(_repeated, rows=rows, size=size)
    decisions = Decisions(None, None, repeat(plan), Lazy())
    cross_kv, cross_bias = repeat((start.cross_kv, start.cross_bias))
    prompt = tokens if config.decoder_only else jnp.full((rows, 1), config.decoder_start_id, jnp.int32)
    alive = jnp.repeat(start.alive, size)

    def places(index, width):
        there = start.places(index, width)
        return jnp.repeat(there, size, axis=0) if there.shape[0] > 1 else there

    kept = max(2, 1 + len(config.eos_ids)) * size

    def body(state):
        index, step = state.step + start.index, state.step
        history = jnp.concatenate([jnp.repeat(prompt, size, axis=0), state.tokens.reshape(rows * size, length)], axis=1)
        last = jax.lax.dynamic_slice_in_dim(history, prompt.shape[1] - 1 + step, 1, axis=1)[:, 0]
        bias = start.bias_at(index)
        visit = Step(
            index=index,
            position=jnp.full(rows * size, step, jnp.int32),
            places=places,
            alive=alive,
            length=length,
            self_bias=jnp.repeat(bias, size, axis=0) if bias.shape[0] > 1 else bias,
            cross_bias=cross_bias,
            cross_kv=cross_kv,
            choose=None,
            head_rows=None,
            gate_keys=None,
            oracle=None,
            sizes=config.sizes,
        )
        token, layers = layer_loop.run_token(
            call, config.num_decoder_layers, call(last, places(index, 1)[:, 0], method='embed'), state.layers, visit, decisions
        )
        scores = jax.nn.log_softmax(call(token.hidden, method='unembed'), axis=-1)
        scores = constraints(scores, history, prompt.shape[1], step, length, config.eos_ids)
        scores = scores.reshape(rows, size, -1) + state.scores[:, :, None]
        best, place = jax.lax.top_k(scores.reshape(rows, -1), kept)
        parent, chosen = place // config.vocab_size, (place % config.vocab_size).astype(jnp.int32)
        candidates = _gather(state.tokens, parent)
        candidates = jax.lax.dynamic_update_slice_in_dim(candidates, chosen[:, :, None], step, axis=2)
        ends = jnp.any(chosen[..., None] == jnp.asarray(config.eos_ids), axis=-1) | (step + 1 >= length)

        running, order = jax.lax.top_k(best + ends * IMPOSSIBLE, size)
        origin = jnp.take_along_axis(parent, order, axis=1)
        finished = _finish(state, candidates, best, ends, step, beam)
        improvable = _improvable(state.improvable, running, finished, step + 1, length, beam)
        return Search(
            step=step + 1,
            tokens=_gather(candidates, order),
            scores=running,
            **finished,
            improvable=improvable,
            stuck=jnp.all(ends),
            layers=_reordered(layers, origin),
        )

    def unfinished(state):
        done = jnp.all(state.ended) & (beam.early_stopping is True)
        return jnp.any(state.improvable) & ~done & ~state.stuck

    nothing = jnp.zeros((rows, size, length), jnp.int32)
    first = jnp.broadcast_to(jnp.where(jnp.arange(size) == 0, 0.0, IMPOSSIBLE), (rows, size))
    final = jax.lax.while_loop(
        unfinished,
        body,
        Search(
            step=jnp.zeros((), jnp.int32),
            tokens=nothing,
            scores=first,
            finished=nothing,
            finished_scores=jnp.full((rows, size), IMPOSSIBLE),
            lengths=jnp.zeros((rows, size), jnp.int32),
            ended=jnp.broadcast_to(~start.alive[:, None], (rows, size)),
            improvable=start.alive,
            stuck=jnp.zeros((), bool),
            layers=start.layers._replace(caches=repeat(start.layers.caches)),
        ),
    )
    return _trace(config, final, start.alive, plan)


def _finish(state, candidates, best, ends, step, beam):
    """The finished sequences with those candidates among the best K that end, the K highest by penalised score."""
    size = beam.size
    new = ends & (jnp.arange(ends.shape[1]) < size)
    scores = best / jnp.power((step + 1).astype(jnp.float32), beam.length_penalty)
    full = jnp.all(state.ended, axis=1, keepdims=True) & (beam.early_stopping is True)
    scores = scores + (full | ~state.improvable[:, None]) * IMPOSSIBLE + ~new * IMPOSSIBLE
    scores, order = jax.lax.top_k(jnp.concatenate([state.finished_scores, scores], axis=1), size)
    lengths = jnp.broadcast_to(step + 1, new.shape)
    return {
        'finished': _gather(jnp.concatenate([state.finished, candidates], axis=1), order),
        'finished_scores': scores,
        'lengths': jnp.take_along_axis(jnp.concatenate([state.lengths, lengths], axis=1), order, axis=1),
        'ended': jnp.take_along_axis(jnp.concatenate([state.ended, new], axis=1), order, axis=1),
    }


def _improvable(before, running, finished, said, length, beam):
    """Whether the best running sequence may still score above the worst finished one, by what early stopping supposes."""
    reach = jnp.where((beam.early_stopping == 'never') & (beam.length_penalty > 0), length, said).astype(jnp.float32)
    possible = running[:, :1] / jnp.power(reach, beam.length_penalty)
    worst = jnp.min(finished['finished_scores'], axis=1, keepdims=True)
    return before & jnp.any(possible > jnp.where(finished['ended'], worst, IMPOSSIBLE), axis=1)


def _gather(sequences, order):
    """[B, M, T] and int32 [B, K] → [B, K, T]."""
    return jnp.take_along_axis(sequences, order[:, :, None], axis=1)


def _repeated(arrays, rows, size):
    """Arrays [B·n, ...] with each row's part once for each of its sequences, [B·K·n, ...]."""

    def repeat(array):
        by_row = array.reshape((rows, array.shape[0] // rows) + array.shape[1:])
        return jnp.repeat(by_row, size, axis=0).reshape((array.shape[0] * size,) + array.shape[1:])

    return jax.tree.map(repeat, arrays)


def _reordered(layers, origin):
    """The decoder's memory of the sequences that go on, from that of their parents, int32 [B, K]."""
    rows, size = origin.shape

    def move(cache):
        by_sequence = cache.reshape((rows, size, -1) + cache.shape[1:])
        return jnp.take_along_axis(by_sequence, origin[:, :, None, None, None], axis=1).reshape(cache.shape)

    return layers._replace(caches=jax.tree.map(move, layers.caches))


def _trace(config, final, alive, plan):
    rows, length = final.finished.shape[0], final.finished.shape[2]
    lengths = jnp.where(alive, final.lengths[:, 0], 0)
    said = jnp.arange(length) < lengths[:, None]
    runs = (
        jnp.ones((rows, config.num_decoder_layers), bool)
        if plan is None
        else (plan.self_attention | plan.cross_attention | plan.feed_forward)
    )
    run = jnp.sum(runs, axis=1)
    return Trace(
        tokens=jnp.where(said, final.finished[:, 0], config.pad_id),
        lengths=lengths,
        exit_layers=jnp.where(said, config.num_decoder_layers, 0),
        layers_run=jnp.where(said, run[:, None], 0),
        confidence=said.astype(jnp.float32),
        executed=jnp.where(jnp.arange(length) < final.step, jnp.sum(jnp.any(runs & alive[:, None], axis=0)), 0),
    )
