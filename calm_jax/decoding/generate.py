"""The token loop: encode the source, or read the prompt, once; then one token of every row at a time until all have ended."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from calm_jax.decoding import layer_loop
from calm_jax.decoding.layer_loop import Decisions, Layers, Step
from calm_jax.decoding.propagation import Lazy
from calm_jax.decoding.sampling import Greedy, example_keys, likeliest_id, position_keys
from calm_jax.decoding.start import begin
from calm_jax.models.transformer import Transformer
from calm_jax.types import Array, Trace

# The logit of ids that pruning has dropped: below all others, above those that a rule forbids.
UNKEPT = -1e30


class Decode(NamedTuple):
    """What the token loop carries. step: int32, tokens generated so far; last: int32 [B], the token to feed next;
    alive: bool [B], rows that have not ended; layers: the decoder's memory; trace: what has been written down."""

    step: Array
    last: Array
    alive: Array
    layers: Layers
    trace: Trace


@partial(jax.jit, static_argnames=('config', 'max_new_tokens'))
def generate(
    config,
    params,
    tokens,
    *,
    max_new_tokens,
    exit=None,
    gate=None,
    plan=None,
    propagation=Lazy(),
    sampling=Greedy(),
    constraints=None,
    head_table=None,
    example_ids=None,
    key=None,
    forced=None,
    limit=None,
):
    """Decodes a batch, each row to the depth that its decisions ask for.

    config: TransformerConfig; params: its parameters; tokens: int32 [B, S], the source, padded behind, or for a decoder
    alone the prompt, padded before. The prompt runs at full depth, but for its last token: what that one is followed by is
    the first decision.
    max_new_tokens: T, what the caches hold and N of a decaying threshold; limit: stop after so many, at most T.
    exit: when a token leaves (`Exit`), gate: which layers it enters, plan: which sub-layers its row runs (`Plan`).
    propagation: what skipped layers hold; sampling: how a token is chosen, from keys of (key, example id, position).
    constraints: what may not be said (`Constraints`); measures look at what the model says all the same.
    head_table: the head as [V, E] where it is at hand (`Transformer.head_table`); else pruning makes it, once a call.
    forced: int32 [B, T], tokens to emit whatever the model says; −1 where it is free.
    A row of nothing but padding has ended before it starts. Returns a Trace.
    """
    rows = tokens.shape[0]
    model = Transformer(config)

    def call(*args, method):
        return model.apply({'params': params}, *args, method=method)

    decisions = Decisions(exit, gate, plan, propagation)
    start = begin(call, config, tokens, max_new_tokens, decisions)
    key = jax.random.key(0) if key is None else key
    ids = jnp.arange(rows, dtype=jnp.int32) if example_ids is None else example_ids
    row_keys = example_keys(key, ids)
    limit = max_new_tokens if limit is None else jnp.minimum(limit, max_new_tokens)
    prompt = tokens if config.decoder_only else jnp.full((rows, 1), config.decoder_start_id, jnp.int32)
    table = call(method='head_table') if head_table is None else head_table

    def body(state):
        position = jnp.full(rows, state.step, jnp.int32)
        draw_keys = position_keys(row_keys, position)
        index = state.step + start.index

        def choose(logits, ids=None):
            if ids is not None and constraints is None and isinstance(sampling, Greedy):
                return likeliest_id(logits, ids)
            if ids is not None:
                # Rules and draws are about all ids: the same draw falls on the same token where that was kept.
                logits = jnp.full((rows, config.vocab_size), UNKEPT).at[jnp.arange(rows)[:, None], ids].set(logits)
            if constraints is not None:
                history = jnp.concatenate([prompt, state.trace.tokens], axis=1)
                logits = constraints(logits, history, prompt.shape[1], state.step, max_new_tokens, config.eos_ids)
            return sampling(logits, draw_keys)

        step = Step(
            index=index,
            position=position,
            places=start.places,
            alive=state.alive,
            length=max_new_tokens,
            self_bias=start.bias_at(index),
            cross_bias=start.cross_bias,
            cross_kv=start.cross_kv,
            choose=choose,
            head_rows=lambda ids: call(ids, table, method='head_rows'),
            gate_keys=draw_keys,
            oracle=None,
            sizes=config.sizes,
        )
        hidden = call(state.last, start.places(index, 1)[:, 0], method='embed')
        layers = state.layers
        if exit is not None and exit.measure.looks_ahead:
            step, layers = _look_ahead(call, config, hidden, layers, step, decisions)
        token, layers = layer_loop.run_token(call, config.num_decoder_layers, hidden, layers, step, decisions)
        chosen = _emit(call, token, step)
        if forced is not None:
            told = jnp.asarray(forced)[:, state.step]
            chosen = jnp.where(told >= 0, told, chosen)
        chosen = jnp.where(state.alive, chosen, config.pad_id)
        return Decode(
            step=state.step + 1,
            last=chosen,
            alive=state.alive & ~_ends(config, chosen),
            layers=layers,
            trace=_record(state.trace, state.step, chosen, token, state.alive),
        )

    def unfinished(state):
        return (state.step < limit) & jnp.any(state.alive)

    begun = Decode(
        step=jnp.zeros((), jnp.int32),
        last=start.last,
        alive=start.alive,
        layers=start.layers,
        trace=_empty_trace(config, rows, max_new_tokens),
    )
    return jax.lax.while_loop(unfinished, body, begun).trace


def _ends(config, tokens):
    """bool [B]: which tokens end a sequence."""
    return jnp.any(tokens[:, None] == jnp.asarray(config.eos_ids, jnp.int32), axis=1)


def _empty_trace(config, rows, length):
    count = jnp.zeros((rows, length), jnp.int32)
    return Trace(
        tokens=jnp.full((rows, length), config.pad_id, jnp.int32),
        lengths=jnp.zeros(rows, jnp.int32),
        exit_layers=count,
        layers_run=count,
        confidence=jnp.zeros((rows, length), jnp.float32),
        executed=jnp.zeros(length, jnp.int32),
    )


def _look_ahead(call, config, hidden, layers, step, decisions):
    """The step with the token that the model without exits would emit here. Layers that were behind stay filled; this
    position does not count as filled, so the exiting pass overwrites it."""
    without = decisions._replace(exit=None)
    token, seen = layer_loop.run_token(call, config.num_decoder_layers, hidden, layers, step, without)
    filled = tuple(jnp.minimum(each, step.index) for each in seen.filled)
    return step._replace(oracle=_emit(call, token, step)), Layers(seen.caches, filled, layers.exit_states)


def _emit(call, token, step):
    """The token of each row: what its measure computed on the way, or the head applied once to its exit state."""

    def head(token):
        return jnp.where(token.predicted, token.prediction, step.choose(call(token.hidden, method='unembed')))

    return jax.lax.cond(jnp.any(step.alive & ~token.predicted), head, lambda token: token.prediction, token)


def _record(trace, step, chosen, token, alive):
    def column(table, values):
        values = jnp.where(alive, values, 0).astype(table.dtype)[:, None]
        return jax.lax.dynamic_update_slice_in_dim(table, values, step, axis=1)

    return Trace(
        tokens=jax.lax.dynamic_update_slice_in_dim(trace.tokens, chosen[:, None], step, axis=1),
        lengths=trace.lengths + alive,
        exit_layers=column(trace.exit_layers, token.visited),
        layers_run=column(trace.layers_run, token.layers_run),
        confidence=column(trace.confidence, token.confidence),
        executed=jax.lax.dynamic_update_slice_in_dim(trace.executed, token.executed[None], step, axis=0),
    )
