"""What gin can configure, and its registration. Importing this file registers nothing and leaves gin as it is."""

import contextlib
from collections.abc import Callable, Iterator

import gin
from gin import config as gin_config

from calm_jax import controlling, tasks
from calm_jax.decoding.decoding import Decoding
from calm_jax.depth.search import Route
from calm_jax.models.config import TransformerConfig
from calm_jax.options import classes
from calm_jax.training import classifier, constrained, controllers, estimators, jobs, losses
from calm_jax.training.optimizer import Optimizer
from calm_jax.training.prompt_controller import Fitted
from calm_jax.training.train_loop import LoopOptions
from calm_jax.training.train_state import TrainState

MODULE = 'calm_jax'


def job(run: Callable[..., TrainState] | Callable[..., Route] | Callable[..., Fitted]) -> Callable:
    """What a gin file makes the command do: `job.run = @train_model`."""
    return run


CONFIGURABLES: tuple[Callable, ...] = (
    *classes(Decoding),
    TransformerConfig,
    LoopOptions,  # before what may leave the steps open, so that a wrong number of them is named by what it must be
    Optimizer,
    jobs.PairedText,
    jobs.train_model,
    jobs.train_exit_classifier,
    jobs.train_adapters,
    jobs.train_policy,
    jobs.train_controllers,
    controlling.train_prompt_controller,
    jobs.train_task,
    tasks.Labels,
    tasks.Spans,
    jobs.search_plan,
    losses.proportional_to_layer,
    losses.uniform,
    losses.last_only,
    classifier.independent,
    classifier.geometric,
    estimators.self_critical,
    estimators.leave_one_out,
    estimators.straight_through,
    controllers.divergence,
    controllers.cross_entropy,
    *constrained.RULES,
)


def register() -> None:
    """Makes CONFIGURABLES and `job` known to gin as calm_jax.NAME, for a program that binds them in its own gin files.

    The classes and functions themselves stay as they are: called from Python, they read nothing from gin. A second call
    does nothing.

    Raises RuntimeError where gin's configuration is locked.
    """
    for configurable in _all():
        if _selector(configurable) not in gin_config._REGISTRY:
            gin.external_configurable(configurable, name=configurable.__name__, module=MODULE)


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """`register` for the length of a `with` block, in which a name of the library is the library's alone.

    What the program has registered under the same last name (mine.Optimizer) is out of sight inside: gin would call
    `Optimizer` ambiguous. Whatever else is registered inside stays registered.
    """
    registry, owners = gin_config._REGISTRY, gin_config._INVERSE_REGISTRY
    ours = {_selector(configurable): configurable for configurable in _all()}
    program_owners = {configurable: owners[configurable] for configurable in _all() if configurable in owners}
    known = [selector for selector in ours if selector in registry]
    namesakes = {
        selector: registry[selector]
        for configurable in _all()
        for selector in registry.matching_selectors(configurable.__name__)
        if selector not in ours
    }
    for selector in namesakes:
        registry.pop(selector)
    try:
        register()
        yield
    finally:
        for selector, configurable in ours.items():
            if selector in registry and selector not in known:
                registry.pop(selector)
                owners.pop(configurable, None)
        owners.update(program_owners)
        for selector, configurable in namesakes.items():
            registry[selector] = configurable


def _all() -> tuple[Callable, ...]:
    return (*CONFIGURABLES, job)


def _selector(configurable: Callable) -> str:
    return f'{MODULE}.{configurable.__name__}'
