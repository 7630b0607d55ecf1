"""A policy that plans, per input, which sub-layers and which source tokens to run (Zhang et al. 2024, Switchable Decision).

From the states that one layer has made of an input it scores every decision at once: Bernoulli for attention and feed-forward
of each encoder and decoder layer, categorical for what is dropped of the source. A decode takes the most likely decisions,
tilted by the dial λ: κ = log(λ / (1 − λ)) is added to the logit of each sub-layer, and κ · 10 · share to that of each choice
that keeps that share of the tokens. At λ = ½ nothing is added, which is the paper's; as λ grows more runs and more is kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Bool, Float, Int

from calm_jax.depth.dial import check_level, level_of, tilt
from calm_jax.depth.plans import PLANNING, PlanMaker
from calm_jax.options import array, option
from calm_jax.pytrees import pytree
from calm_jax.types import Array, Context, Plan, Sizes

LIKELY = 0.9  # probability to run, and to keep all tokens, of a policy that has learned nothing
SHARPNESS = 10.0  # of the tilt of token choices, beside that of a sub-layer
ALWAYS = 1e4  # a logit that no tilt reaches
NEVER = 40.0  # one that a tilt reaches at λ = 1 alone, in float32, and one draw in eight million


class TokenChoice(NamedTuple):
    """What is kept of a source's n tokens: ⌈n · numerator / denominator⌉, the last dropped, or every so many."""

    numerator: int
    denominator: int
    evenly: bool

    @property
    def share(self) -> float:
        """Of the tokens that are kept."""
        return self.numerator / self.denominator

    @property
    def name(self) -> str:
        """'last 10%', what is dropped."""
        return 'none' if self.share == 1 else f'{"evenly" if self.evenly else "last"} {round(100 * (1 - self.share))}%'


# Falling shares, so that the first of several that score alike keeps most (§3.1).
TOKEN_CHOICES = (
    TokenChoice(1, 1, False),
    TokenChoice(9, 10, False),
    TokenChoice(4, 5, False),
    TokenChoice(3, 4, True),
    TokenChoice(7, 10, False),
    TokenChoice(2, 3, True),
    TokenChoice(1, 2, True),
)


class Logits(NamedTuple):
    """What the policy scores of B inputs, float32. encoder, decoder: [B, layers, 2], of running attention and feed-forward;
    tokens: [B, choices]."""

    encoder: Array
    decoder: Array
    tokens: Array


class Decisions(NamedTuple):
    """One of the plans that a policy chooses from. encoder, decoder: bool [B, layers, 2], which run; tokens: int32 [B], of
    `TOKEN_CHOICES`."""

    encoder: Array
    decoder: Array
    tokens: Array


class Policy(nn.Module):
    """Layer norm, one hidden layer of the model's width, ReLU (§3.2), from states pooled over the tokens that are there.

    Its outputs start at 0 but for their biases: every input runs a sub-layer, and keeps all tokens, with probability .9.
    """

    encoder_layers: int
    decoder_layers: int

    @nn.compact
    def __call__(self, states: Float[Array, 'B S D'], mask: Bool[Array, 'B S']) -> Logits:
        choices, p = len(TOKEN_CHOICES), _parameters(self, states.shape[-1], self.encoder_layers + self.decoder_layers)
        scores = _hidden(pooled(states, mask), p['scale'], p['shift'], p) @ p['kernel'] + p['bias']
        runs = scores[:, :-choices].reshape(len(scores), -1, 2)
        return Logits(runs[:, : self.encoder_layers], runs[:, self.encoder_layers :], scores[:, -choices:])


class LayerwisePolicy(nn.Module):
    """A policy that decides of each layer from the states of the layer before (Zhang et al. 2024, Table 11).

    Of the form of `Policy`, but that each layer whose states are read has a norm of its own: their scales differ, and the head
    says by this shape how it decides. Layers count through both stacks as they run, the encoder's first.
    """

    encoder_layers: int
    decoder_layers: int

    @nn.compact
    def __call__(self, layer: int, states: Float[Array, 'B S D'], mask: Bool[Array, 'B S']) -> Logits:
        """The scores that follow from the states after a layer (static, from 0): of running the next one and, after the first,
        of the choices of tokens; all others are 0."""
        layers, choices = self.encoder_layers + self.decoder_layers, len(TOKEN_CHOICES)
        p = _parameters(self, states.shape[-1], layers, (layers - 1,))
        columns = jnp.array([2 * layer + 2, 2 * layer + 3, *range(2 * layers, 2 * layers + choices)[: 0 if layer else choices]])
        x = _hidden(pooled(states, mask), p['scale'][layer], p['shift'][layer], p)
        scores = x @ p['kernel'][:, columns] + p['bias'][columns]
        runs = jnp.zeros((len(scores), layers, 2), scores.dtype).at[:, layer + 1].set(scores[:, :2])
        tokens = jnp.zeros((len(scores), choices), scores.dtype) if layer else scores[:, 2:]
        return Logits(runs[:, : self.encoder_layers], runs[:, self.encoder_layers :], tokens)


def _parameters(module: nn.Module, width: int, layers: int, norms: tuple[int, ...] = ()) -> dict[str, Array]:
    """Those of a policy's module. norms: of what shape norms it has; (): one."""
    outputs = 2 * layers + len(TOKEN_CHOICES)
    zeros = nn.initializers.zeros
    return {
        'scale': module.param('scale', nn.initializers.ones, (*norms, width)),
        'shift': module.param('shift', zeros, (*norms, width)),
        'hidden_kernel': module.param('hidden_kernel', nn.initializers.lecun_normal(), (width, width)),
        'hidden_bias': module.param('hidden_bias', zeros, (width,)),
        'kernel': module.param('kernel', zeros, (width, outputs)),
        'bias': module.param('bias', _first_bias, (outputs,)),
    }


def _hidden(x: Float[Array, 'B D'], scale: Array, shift: Array, parameters: Mapping[str, Array]) -> Float[Array, 'B D']:
    """The hidden layer, of pooled states."""
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * scale + shift
    return jax.nn.relu(x @ parameters['hidden_kernel'] + parameters['hidden_bias'])


def _first_bias(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """log(.9 / .1) for every sub-layer; for all tokens what makes their softmax .9, and 0 for the other choices."""
    del key
    choices = len(TOKEN_CHOICES)
    odds = LIKELY / (1 - LIKELY)
    all_kept = jnp.log(odds * (choices - 1))
    tokens = jnp.zeros(choices, dtype).at[0].set(all_kept)
    return jnp.concatenate([jnp.full(shape[0] - choices, jnp.log(odds), dtype), tokens])


def pooled(states: Float[Array, 'B S D'], mask: Bool[Array, 'B S']) -> Float[Array, 'B D']:
    """The mean of the states of the tokens that are there; zeros where there are none. float32, or wider."""
    wide = states.astype(jnp.promote_types(states.dtype, jnp.float32))
    there = mask[..., None].astype(wide.dtype)
    return jnp.sum(jnp.where(mask[..., None], wide, 0), axis=1) / jnp.maximum(jnp.sum(there, axis=1), 1)


def tilted(logits: Logits, level: Array | float) -> Logits:
    """The logits under the dial λ in [0, 1]."""
    return raised(logits, tilt(level))


def raised(logits: Logits, kappa: Array | float) -> Logits:
    """The logits with κ added to each sub-layer's, and κ · 10 · share to each choice's of tokens."""
    shares = jnp.array([choice.share for choice in TOKEN_CHOICES], jnp.float32)
    return Logits(logits.encoder + kappa, logits.decoder + kappa, logits.tokens + kappa * SHARPNESS * shares)


def likeliest(logits: Logits) -> Decisions:
    """Of each decision the likelier way; of what scores alike, to run, and the larger share."""
    return Decisions(logits.encoder >= 0, logits.decoder >= 0, jnp.argmax(logits.tokens, axis=-1).astype(jnp.int32))


def drawn(logits: Logits, keys: Array) -> Decisions:
    """Decisions drawn as likely as the policy has them, of each row by its own key [B]."""

    def draw(key, logits):
        # Keys of positions are folded from the same key.
        encoder, decoder, tokens = jax.random.split(jax.random.fold_in(key, PLANNING), 3)
        return Decisions(
            jax.random.bernoulli(encoder, jax.nn.sigmoid(logits.encoder)),
            jax.random.bernoulli(decoder, jax.nn.sigmoid(logits.decoder)),
            jax.random.categorical(tokens, logits.tokens).astype(jnp.int32),
        )

    return jax.vmap(draw)(keys, logits)


def log_likelihood(logits: Logits, decisions: Decisions, parts: 'Parts') -> Float[Array, ' B']:
    """log π of decisions (Eq. 2 and 3), of the parts that are decided, float32 [B]."""

    def bernoulli(logit, runs):
        return jnp.where(runs, jax.nn.log_sigmoid(logit), jax.nn.log_sigmoid(-logit))

    encoder = jnp.sum(jnp.where(parts.encoder, bernoulli(logits.encoder, decisions.encoder), 0), axis=(1, 2))
    decoder = jnp.sum(jnp.where(parts.decoder, bernoulli(logits.decoder, decisions.decoder), 0), axis=(1, 2))
    tokens = jnp.take_along_axis(jax.nn.log_softmax(logits.tokens), decisions.tokens[:, None], axis=1)[:, 0]
    return encoder + decoder + jnp.where(parts.tokens, tokens, 0)


class Parts(NamedTuple):
    """What is decided. encoder, decoder: bool [layers, 1], whose layers; the one that the policy reads after always runs.
    tokens: bool [], whether any may be dropped."""

    encoder: Array
    decoder: Array
    tokens: Array

    def limited(self, decisions: Decisions) -> Decisions:
        """The decisions, with everything run and kept that is not decided."""
        return Decisions(
            decisions.encoder | ~self.encoder, decisions.decoder | ~self.decoder, jnp.where(self.tokens, decisions.tokens, 0)
        )


def saying(decisions: Decisions) -> Logits:
    """Logits of these decisions alone, drawn or not, under every dial below 1; at 1 all runs and all is kept."""
    encoder, decoder = (jnp.where(each, ALWAYS, -NEVER) for each in decisions[:2])
    rows = jnp.arange(decisions.tokens.shape[0])
    dropped = 1 - jnp.array([choice.share for choice in TOKEN_CHOICES], jnp.float32)[decisions.tokens]
    tokens = jnp.full((rows.shape[0], len(TOKEN_CHOICES)), -ALWAYS).at[:, 0].set(-NEVER * SHARPNESS * dropped)
    return Logits(encoder, decoder, tokens.at[rows, decisions.tokens].set(0.0))


def unread(logits: Logits, width: int) -> dict[str, Array]:
    """The head of a policy that says these logits, of one row, of every input. width: D, of the states it would read."""
    bias = jnp.concatenate([each.reshape(-1) for each in logits])
    of_width = {name: jnp.zeros(width) for name in ('scale', 'shift', 'hidden_bias')}
    return {**of_width, 'hidden_kernel': jnp.zeros((width, width)), 'kernel': jnp.zeros((width, len(bias))), 'bias': bias}


PARTS = ('encoder', 'decoder', 'tokens')


def decided_alone(head: Mapping[str, Any], parts: Parts) -> dict[str, Any]:
    """The head of a policy that decides these parts alone: everything else runs, and stays, whatever is drawn or dialled."""
    runs = [jnp.broadcast_to(part, (part.shape[0], 2)).reshape(-1) for part in parts[:2]]
    decided = jnp.concatenate([*runs, jnp.full(len(TOKEN_CHOICES), parts.tokens)])
    otherwise = jnp.full(decided.shape, ALWAYS).at[-len(TOKEN_CHOICES) + 1 :].set(0.0)
    return {
        **head,
        'kernel': jnp.where(decided, jnp.asarray(head['kernel']), 0.0),
        'bias': jnp.where(decided, jnp.asarray(head['bias']), otherwise),
    }


def parts_of(names: Sequence[str] | None, sizes: Sizes) -> Parts:
    """The parts of a model with these sizes. names: of `PARTS`, None: all that it has; the first layer, which the policy reads
    after, is in none. Raises ValueError for other names, none, tokens of a model that drops none, and an encoder of one layer
    or none."""
    if isinstance(names, str) or (names is not None and not names):
        raise ValueError(f'parts is {names!r}; expected a list of {", ".join(PARTS)}, or None for all')
    unknown = [name for name in names or () if name not in PARTS]
    if unknown:
        raise ValueError(f'parts holds {unknown[0]!r}; expected some of {", ".join(PARTS)}')
    if 'tokens' in (names or ()) and not sizes.drops_tokens:
        why = 'its encoder reads nearby tokens' if sizes.encoder_layers else 'it has no encoder'
        raise ValueError(f'parts holds tokens, and this model cannot drop any: {why}')
    if 'encoder' in (names or ()) and sizes.encoder_layers < 2:
        why = 'the only layer of its encoder always runs' if sizes.encoder_layers else 'it has no encoder'
        raise ValueError(f'parts holds encoder, and this model decides of none of its layers: {why}')
    names = PARTS if names is None else names
    encoder = jnp.arange(sizes.encoder_layers)[:, None] > 0
    decoder = jnp.arange(sizes.layers)[:, None] > (-1 if sizes.encoder_layers else 0)
    return Parts(
        encoder & ('encoder' in names), decoder & ('decoder' in names), jnp.asarray('tokens' in names and sizes.drops_tokens)
    )


def kept(choices: Int[Array, ' B'], mask: Bool[Array, 'B S'], protected: Bool[Array, 'B S']) -> Bool[Array, 'B S']:
    """Which source tokens stay, of those that are there: ⌈share · n⌉, or more where the protected ones are more.

    choices: of `TOKEN_CHOICES`; protected: tokens that are never dropped.
    """
    numerators, denominators, evenly = (
        jnp.array(column, jnp.int32)[choices] for column in zip(*[tuple(map(int, choice)) for choice in TOKEN_CHOICES])
    )
    count = jnp.sum(mask, axis=1, dtype=jnp.int32)
    free = mask & ~protected
    most = jnp.sum(free, axis=1, dtype=jnp.int32)
    dropped = jnp.minimum(count - -(-count * numerators // denominators), most)[:, None]
    rank = jnp.cumsum(free, axis=1, dtype=jnp.int32) - free
    size = jnp.maximum(most, 1)[:, None]
    spread = (rank + 1) * dropped // size > rank * dropped // size
    return mask & ~(free & jnp.where(evenly[:, None] > 0, spread, rank >= most[:, None] - dropped))


def plan_of(decisions: Decisions, context: Context) -> Plan:
    """The plan that decisions come to; the decoder's self- and cross-attention run together."""
    source = choice = None
    if context.protected is not None:
        source, choice = kept(decisions.tokens, context.mask, context.protected), decisions.tokens
    attention, feed_forward = decisions.decoder[..., 0], decisions.decoder[..., 1]
    return Plan(
        self_attention=attention,
        cross_attention=attention,
        feed_forward=feed_forward,
        encoder_attention=decisions.encoder[..., 0],
        encoder_feed_forward=decisions.encoder[..., 1],
        source=source,
        choice=choice,
    )


def outputs_of(sizes: Sizes) -> int:
    """How many scores a policy gives: of two sub-layers of every layer, and of each choice of tokens."""
    return 2 * (sizes.encoder_layers + sizes.layers) + len(TOKEN_CHOICES)


def policy_flops(sizes: Sizes, layerwise: bool = False) -> int:
    """Floating-point operations of scoring one input: all at once, or each layer from the states of the layer before."""
    readings = sizes.encoder_layers + sizes.layers - 1 if layerwise else 1
    outputs = 2 * readings + len(TOKEN_CHOICES) if layerwise else outputs_of(sizes)
    return 2 * sizes.width * (readings * sizes.width + outputs)


@pytree(static=('drawn',))
class PolicyPlan(PlanMaker):
    """The most likely decisions of a trained policy under its dial.

    scale, shift, hidden_bias: float32 [D]; hidden_kernel: [D, D]; kernel: [D, outputs]; bias: [outputs]: of `Policy`; scale and
    shift [layers − 1, D] of `LayerwisePolicy`, which decides one layer after the other.

    Raises ValueError for a level outside [0, 1].
    """

    after: ClassVar[int] = 1
    dial: ClassVar[str | None] = 'level'
    head: ClassVar[str | None] = 'policy'
    choices: ClassVar[tuple[str, ...]] = tuple(choice.name for choice in TOKEN_CHOICES)

    scale: Array = array()
    shift: Array = array()
    hidden_kernel: Array = array()
    hidden_bias: Array = array()
    kernel: Array = array()
    bias: Array = array()
    level: float = option(
        'how much the policy runs: 1 everything, .5 what it finds likeliest, less below',
        default=0.5,
        flag='policy_level',
        metavar='X',
    )
    drawn: bool = option(
        'draw decisions as likely as the policy has them, of each text by its own key, in place of the likeliest',
        default=False,
        flag='policy_drawn',
    )

    def __post_init__(self):
        check_level('policy_level', self.level)

    @classmethod
    def of(cls, text: str, sizes: Sizes) -> dict[str, float]:
        """What `--plan policy:λ` says. Raises ValueError for what is no number from 0 to 1."""
        return {'level': level_of(text, 'plan', 'policy')}

    @property
    def layerwise(self) -> bool:
        return jnp.ndim(self.scale) == 2

    def logits(self, context: Context) -> Logits:
        """What the policy scores of each row's input."""
        assert context.hidden is not None  # asked after one layer
        policy = Policy(context.sizes.encoder_layers, context.sizes.layers)
        return cast(Logits, policy.apply({'params': self._head()}, context.hidden, context.mask))

    def __call__(self, context: Context) -> Plan:
        return plan_of(self._chosen(self.logits(context), context), context)

    def decide(self, layer: int, context: Context) -> Decisions:
        assert context.hidden is not None  # those after the layer
        policy = LayerwisePolicy(context.sizes.encoder_layers, context.sizes.layers)
        logits = policy.apply({'params': self._head()}, layer, context.hidden, context.mask)
        return self._chosen(cast(Logits, logits), context)

    def _head(self) -> dict[str, Array]:
        names = ('scale', 'shift', 'hidden_kernel', 'hidden_bias', 'kernel', 'bias')
        return {name: getattr(self, name) for name in names}

    def _chosen(self, logits: Logits, context: Context) -> Decisions:
        logits = tilted(logits, self.level)
        decisions = drawn(logits, context.keys) if self.drawn else likeliest(logits)
        return parts_of(None, context.sizes).limited(decisions)

    def flops(self, sizes: Sizes) -> int:
        return policy_flops(sizes, self.layerwise)

    def check(self, sizes: Sizes) -> None:
        super().check(sizes)
        width, outputs = sizes.width, outputs_of(sizes)
        if self.kernel.shape != (width, outputs):
            raise ValueError(
                f'the policy head is [{", ".join(map(str, self.kernel.shape))}], of another model; expected '
                f'[{width}, {outputs}] for {sizes.encoder_layers} + {sizes.layers} layers'
            )
        norms = (sizes.encoder_layers + sizes.layers - 1, width)
        if self.layerwise and self.scale.shape != norms:
            raise ValueError(
                f'the policy head has norms [{", ".join(map(str, self.scale.shape))}], of another model; expected '
                f'[{norms[0]}, {width}], one after each layer but the last'
            )
