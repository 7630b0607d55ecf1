"""What a line of a decoded file holds: made of an output, and checked when it is read again."""

import math

# Of `calm_jax.output.SequencePlan`.
SUB_LAYERS = ('encoder_attention', 'encoder_feed_forward', 'self_attention', 'cross_attention', 'feed_forward')


def record(example_id, output) -> dict:
    """What a line holds of a `calm_jax.output.Output`: all that is a function of input and settings, so no times.
    A confidence that is no finite number, as a measure of one's own may give, is null: JSON has no name for it."""
    return {
        'id': example_id,
        'text': output.text,
        'tokens': output.tokens,
        'pieces': output.pieces,
        'exit_layers': output.exit_layers,
        'sub_layers': output.sub_layers,
        'confidence': [round(value, 6) if math.isfinite(value) else None for value in output.confidence],
        'layers': output.layers,
        'flops': output.flops,
        'flops_elbayad': output.flops_elbayad,
        'source_tokens': output.source_tokens,
        'truncated': output.truncated,
        **({} if output.plan is None else {'plan': _plan(output.plan)}),
    }


def _plan(plan) -> dict:
    """A `calm_jax.output.SequencePlan`: of sub-layers a text with 1 for each layer that ran and 0 for each that did not, the
    rest as it is; without what is empty."""
    runs = {name: ''.join(map(str, map(int, getattr(plan, name)))) for name in SUB_LAYERS}
    content = {**runs, 'choice': plan.choice, 'dropped': plan.dropped, 'source': plan.source}
    return {name: value for name, value in content.items() if value}


# The fields that results are computed from, and their types; an id may be of any.
_USED = {
    'text': str,
    'tokens': list,
    'exit_layers': list,
    'layers': int | float,
    'flops': int | float,
    'flops_elbayad': int | float,
}


def checked(line: dict, where: str) -> dict:
    """The record of a decoded file, as it is. ValueError, naming `where` (`file:line`), for a field that results are computed
    from and that is not there or of another type."""
    for name, kind in _USED.items():
        if not isinstance(line.get(name), kind) or isinstance(line[name], bool):
            raise ValueError(f'{where}: no {name}, or a damaged one; decode again with --checkpoint and --overwrite')
    if 'id' not in line:
        raise ValueError(f'{where}: no id; decode again with --checkpoint and --overwrite')
    return line
