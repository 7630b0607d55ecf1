"""A task's stage: a head over the decoder's top states, learned with the model or on a frozen one."""

from typing import Any, cast

import jax
import jax.numpy as jnp

from calm_jax.checkpoints import native
from calm_jax.data.tokenizers import Tokenizer
from calm_jax.models.config import TransformerConfig
from calm_jax.models.task_head import init_task_head, label_places, task_scores
from calm_jax.models.transformer import Transformer
from calm_jax.tasks import Labels, Task
from calm_jax.training.multi_exit import layer_states
from calm_jax.training.train_state import Batch, Stage, of_loss
from calm_jax.types import Array

OUT_OF_REACH = -1e9  # a score that no softmax sees


def task_stage(
    config: TransformerConfig,
    params: Any,
    tokenizer: Tokenizer,
    task: Task,
    *,
    frozen: bool = False,
    seed: int = 0,
    heads: dict | None = None,
    generation: dict | None = None,
) -> Stage:
    """Trains the head of a task, and the model with it.

    config, params: of the model. tokenizer, generation: stored with the checkpoints. task: what is asked. frozen: whether the
    model stays as it is. seed: of a head that is begun anew. heads: those of the checkpoint, of which a head of a task like
    this is trained on.
    """
    model, others = Transformer(config), dict(heads or {})
    head = others.pop('task', None) or new_head(config, task, seed)

    def scores(trained, backbone, batch, key=None):
        now = trained.get('model', backbone)
        states = of_positions(task, config, layer_states(model, now, batch, key)[-1], batch)
        return task_scores(trained['task'], cast(Array, model.apply({'params': now}, states, method='top')))

    def loss(trained, backbone, batch, key):
        made = scores(trained, backbone, batch, key if config.dropout_rate and not frozen else None)
        return jnp.sum(task_losses(task, made, batch) * batch['task_weights']), jnp.sum(batch['task_weights'])

    def measure(trained, backbone, batch):
        made, weights = scores(trained, backbone, batch), batch['task_weights']
        right = jnp.all(jnp.argmax(choices(task, made, batch), axis=-1) == batch['task_targets'], axis=1)
        of_row = {'loss': task_losses(task, made, batch), 'right': right, 'rows': jnp.ones_like(weights)}
        return {name: jnp.sum(each * weights) for name, each in of_row.items()}

    def report(sums):
        return {'loss': float(sums['loss'] / sums['rows']), 'accuracy': float(sums['right'] / sums['rows'])}

    def export(trained, directory):
        native.save(
            directory,
            config,
            trained.get('model', params),
            tokenizer,
            heads={**others, 'task': trained['task']},
            generation=generation,
            task=task,
            overwrite=True,
        )

    start = {'task': head} if frozen else {'task': head, 'model': params}
    backbone = params if frozen else {}
    return Stage(start, backbone, of_loss(loss), measure, report, ('loss', 'accuracy'), export)


def new_head(config: TransformerConfig, task: Task, seed: int) -> dict[str, Array]:
    """A head that has learned nothing, of the form that is published: labels of an encoder-decoder by two maps, those of a
    decoder-only model by one without a bias."""
    labels = isinstance(task, Labels)
    form = labels and not config.decoder_only, not (labels and config.decoder_only)
    return init_task_head(config, jax.random.key(seed), task.outputs, *form)


def of_positions(task: Task, config: TransformerConfig, states: Array, batch: Batch) -> Array:
    """The decoder's last states [B, S, D] that a head reads: of labels those at their places, [B, 1, D]."""
    if not isinstance(task, Labels):
        return states
    tokens = batch['decoder_input_tokens'] if config.decoder_only else batch['encoder_input_tokens']
    place = label_places(config, tokens, batch['decoder_mask'])
    return jnp.take_along_axis(states, place[:, None, None], axis=1)


def choices(task: Task, scores: Array, batch: Batch) -> Array:
    """Scores as choices, among which one is right: of labels [B, 1, C], of first and last token [B, 2, S]."""
    if isinstance(task, Labels):
        return scores
    return jnp.where(batch['decoder_mask'][:, None], jnp.swapaxes(scores, 1, 2), OUT_OF_REACH)


def task_losses(task: Task, scores: Array, batch: Batch) -> Array:
    """Nats of each row, [B]: of its label, or the mean of those of first and last token."""
    nll = -jax.nn.log_softmax(choices(task, scores, batch), axis=-1)
    return jnp.mean(jnp.take_along_axis(nll, batch['task_targets'][..., None], axis=-1)[..., 0], axis=1)
