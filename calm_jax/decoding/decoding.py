"""How texts are decoded: one value, made of the classes that the loop takes."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.core import Tracer

from calm_jax.checks import check_seed
from calm_jax.decoding.choice import Beam, Choice, Greedy, Sampled
from calm_jax.decoding.propagation import PROPAGATIONS, Lazy, Propagation
from calm_jax.decoding.rules import Rules
from calm_jax.depth.controllers import SkipControllers
from calm_jax.depth.exits import Exit
from calm_jax.depth.gates import Gate
from calm_jax.depth.plans import WHOLE, FixedLayers, PlanMaker, RandomLayers, Uniform
from calm_jax.depth.policy import PolicyPlan
from calm_jax.depth.prompt_controller import PromptController
from calm_jax.options import check_values, option
from calm_jax.pytrees import pytree
from calm_jax.types import Array, Sizes

# Those that come along; a maker of your own is named by where it is, 'package.module:Class'.
PLANS: dict[str, type[PlanMaker]] = {
    'uniform': Uniform,
    'random': RandomLayers,
    'layers': FixedLayers,
    'prompt_controller': PromptController,
    'policy': PolicyPlan,
}
GATES: dict[str, type[Gate]] = {'controllers': SkipControllers}
CHOICES: dict[str, type[Choice]] = {'greedy': Greedy, 'sampled': Sampled, 'beam': Beam}


@pytree(static=('max_source_length', 'stop_strings'))
class Limits:
    """How much is read and said, in tokens, the end-of-sequence included; None: what the checkpoint says, else 512 and 128.

    max_length: besides, the most tokens of a text and its start token or prompt together; a prompt that leaves no room is
    followed by one token. stop_strings: a text ends with the token that completes one of them. The host looks for them every
    few steps; a row that has said one leaves then, and what came after is cut off.
    Raises ValueError for a limit below 1, and for an empty text.
    """

    max_source_length: int | None = option(
        "input tokens; longer inputs are cut (default: the checkpoint's own, else 512)", default=None, metavar='S'
    )
    max_new_tokens: int | Array | None = option(
        "most tokens generated, the end-of-sequence included (default: the checkpoint's own, else 128)",
        default=None,
        metavar='T',
    )

    max_length: int | Array | None = option(
        'most tokens of the prompt, or start token, and the output together', default=None, metavar='T'
    )
    stop_strings: tuple[str, ...] = option(
        'a text, or a JSON list of them, that ends the output', default=(), flag='stop', metavar='TEXT'
    )

    def __post_init__(self):
        if isinstance(self.stop_strings, list):  # JSON and gin give lists
            object.__setattr__(self, 'stop_strings', tuple(self.stop_strings))
        if not all(isinstance(each, str) and each for each in self.stop_strings):
            raise ValueError(f'stop_strings is {list(self.stop_strings)}; expected texts that are not empty')
        for name in ('max_source_length', 'max_new_tokens', 'max_length'):
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise ValueError(f'{name} is {value}; expected 1 or more')


@pytree(static=('plan_prompt',))
class Decoding:
    """Everything about decoding that decides the output.

    limits: how much is read and said. exit: when a token leaves. gate: which layers it enters. plan: which sub-layers its row
    runs; plan_prompt: whether a decoder-only model reads its prompt in full all the same, as in Zhang et al. 2024 and Glavas et
    al. 2024 (§2), or within the plan. propagation: what skipped layers hold. choice: how a token is chosen: greedy, sampled, or
    by beam search, which takes no exit, gate or sampling. rules: what may not be said; measures look at what the model says all
    the same.
    seed: of every draw, 0 ≤ seed < 2**32.

    Frozen, and a pytree: what is compiled for one is compiled for every other that differs in numbers alone. `codec` writes it
    as JSON. Raises TypeError for a part of another kind; ValueError for parts that exclude each other.
    """

    limits: Limits = option(default=Limits(), kind=Limits)
    exit: Exit | None = option(default=None, kind=Exit)
    gate: Gate | None = option('which layers a token enters', default=None, metavar='NAME', kinds=GATES, named=True)
    plan: PlanMaker | None = option(
        "which sub-layers a row runs: uniform:C for C of the decoder's layers, evenly spaced, random:C for C that are drawn, "
        "layers:1,5,9 for these, policy for what the checkpoint's policy finds",
        default=None,
        metavar='PLAN',
        kinds=PLANS,
        named=True,
    )
    plan_prompt: str = option(
        "how a decoder-only model's prompt is read beside a plan: in full, or within the plan",
        default='full',
        choices=('full', 'plan'),
    )
    propagation: Propagation = option(
        'what skipped layers hold (the last two are ablations)', default=Lazy(), metavar='NAME', kinds=PROPAGATIONS
    )
    choice: Choice = option(default=Greedy(), kinds=CHOICES, flag=None)
    rules: Rules = option(default=Rules(), kind=Rules)
    seed: int | Array = option('of every draw', default=0)

    def __post_init__(self):
        for name, (kind, example) in _PARTS.items():
            value = getattr(self, name)
            if not isinstance(value, kind) and not (value is None and name in ('exit', 'gate', 'plan')):
                raise TypeError(f'{name} is {value!r}; expected {example}')
        if self.exit is not None and self.exit.verify and not off(self.exit):
            _check_verified(self)
        if self.plan_prompt not in ('full', 'plan'):
            raise ValueError(f'plan_prompt is {self.plan_prompt!r}; expected full or plan')
        if self.plan_prompt == 'plan' and self.plan is not None and self.plan.after == WHOLE:
            raise ValueError(
                f'plan_prompt is plan, and {type(self.plan).__name__} plans for what follows a prompt that is read in full; '
                'expected full'
            )
        if self.plan_prompt == 'plan' and self.plan is not None and self.plan.layerwise:
            raise ValueError(
                'plan_prompt is plan, and the policy decides layer by layer from a prompt that is read in full; expected full'
            )
        if isinstance(self.choice, Beam) and not (self.exit is None and self.gate is None):
            other = 'a gate' if self.exit is None else 'an exit that verifies' if self.exit.verify else 'an exit'
            raise ValueError(
                f'beam search with {other}: beams are searched at full depth or within a plan; leave one of the two out'
            )
        if isinstance(self.choice, Beam) and self.limits.stop_strings:
            raise ValueError(
                'stop_strings with beam search: a sequence that is searched ends at no text; leave one of the two out'
            )
        if isinstance(self.seed, int):
            check_seed('seed', self.seed)
        shortest, longest = self.rules.min_new_tokens, self.limits.max_new_tokens
        if isinstance(shortest, int) and isinstance(longest, int) and shortest > longest:
            raise ValueError(f'min_new_tokens is {shortest}, max_new_tokens {longest}; expected no more')

    def full(self) -> 'Decoding':
        """Full depth: the same limits, choice and rules, without exit, gate, plan and pruning. What adaptive decodes are
        compared with, and fall back on."""
        return Decoding(limits=self.limits, choice=self.choice, rules=self.rules, seed=self.seed)

    def resolved(self) -> 'Decoding':
        """What is compiled: without the decisions whose dial stands at 1, the rules that are off, and what is no matter of the
        loop, so that nothing of them is in the program. A dial that is no number yet, inside another program, stays; what it
        stands for is masked where it is 1."""
        return dataclasses.replace(
            self,
            limits=Limits(max_new_tokens=self.limits.max_new_tokens, max_length=self.limits.max_length),
            exit=None if off(self.exit) else self.exit,
            gate=None if off(self.gate) else self.gate,
            plan=None if off(self.plan) else self.plan,
            plan_prompt='full' if off(self.plan) else self.plan_prompt,
            choice=self.choice.resolved(),
            rules=self.rules.resolved(),
        )

    def check(self, sizes: Sizes) -> None:
        """Raises ValueError where a model of these sizes cannot do it, for a value of another type than its option's, and for a
        dial outside [0, 1]."""
        check_values(self)
        self.rules.check(sizes.vocabulary)
        if self.propagation.reads_adapted and (self.exit is None or self.exit.adapters is None):
            raise ValueError('propagation is of adapted states, and there is no exit with adapters; expected another, or one')
        for name in ('exit', 'gate', 'plan'):
            decision = getattr(self, name)
            if decision is None:
                continue
            decision.check(sizes)
            dial = None if decision.dial is None else getattr(decision, decision.dial)
            if isinstance(dial, int | float) and not 0 <= dial <= 1:
                raise ValueError(f'{name}.{decision.dial} is {dial}; expected a dial in [0, 1], where 1 is off')


def _check_verified(decoding: Decoding) -> None:
    """Raises ValueError for what drafts cannot be verified with."""
    if not isinstance(decoding.propagation, Lazy):
        raise ValueError(
            f'verify with propagation {type(decoding.propagation).__name__}: what is verified lacks nothing; leave '
            'one of the two out'
        )
    assert decoding.exit is not None  # that is verified
    if decoding.exit.measure.looks_ahead:
        name = type(decoding.exit.measure).__name__
        raise ValueError(f'verify with measure {name}, which looks ahead at what full depth says; leave one of the two out')
    longest = decoding.limits.max_new_tokens
    if isinstance(longest, int) and decoding.exit.verify > longest:
        raise ValueError(f'verify is {decoding.exit.verify}, and no text has more than {longest} tokens; expected at most that')
    for name, decision in (('a gate', decoding.gate), ('a plan', decoding.plan)):
        if decision is not None and not off(decision):
            raise ValueError(f'verify with {name}: drafts are verified by all layers; leave one of the two out')


_PARTS = {
    'limits': (Limits, 'Limits(…)'),
    'exit': (Exit, 'an exit rule, such as Exit(SoftmaxGap(), threshold=0.8)'),
    'gate': (Gate, 'a gate'),
    'plan': (PlanMaker, 'a plan maker, such as Uniform(0.5)'),
    'propagation': (Propagation, 'a propagation, such as Lazy()'),
    'choice': (Choice, 'Greedy(), Sampled(…) or Beam(…)'),
    'rules': (Rules, 'Rules(…)'),
}


def stands_at_one(decision: Any) -> Array:
    """Whether a decision's dial stands at 1, bool [], within a program; never, where it has none."""
    dial = 0.0 if decision.dial is None else getattr(decision, decision.dial)
    return jnp.asarray(dial) >= 1


def off(decision: Any) -> bool:
    """Whether a decision is none, or its dial is a number and stands at 1."""
    if decision is None or decision.dial is None:
        return decision is None
    dial = getattr(decision, decision.dial)
    return not isinstance(dial, Tracer) and float(dial) >= 1
