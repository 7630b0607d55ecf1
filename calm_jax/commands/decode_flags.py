"""The flags of every command that decodes, and the settings they make."""

import argparse
import os
from pathlib import Path

import jax

from calm_jax.commands import gin_flags
from calm_jax.commands.flag_types import positive
from calm_jax.decoding.settings import FORMS, KEEP, MEASURES, PROPAGATIONS, PRUNINGS, Settings
from calm_jax.models.config import DEVICE_DTYPES

# What a checkpoint's defaults say of beam search, which other ways to decode do without.
BEAMS = ('num_beams', 'length_penalty', 'early_stopping')


def add_model(parser, required=True):
    """--checkpoint, --batch_size, --dtype, --quiet: which model, and how it is run."""
    parser.add_argument('--checkpoint', required=required, metavar='DIR', help='native checkpoint (see `calm import`)')
    parser.add_argument('--batch_size', type=positive, default=32, metavar='N', help='rows decoded together (default 32)')
    parser.add_argument(
        '--dtype', choices=DEVICE_DTYPES, help='of parameters and activations (default: as stored; float32 on a CPU)'
    )
    parser.add_argument('--quiet', action='store_true', help='no progress bars, no summary')


def add_settings(parser, threshold=True):
    """Everything that decides the output. A flag that is not given leaves no attribute: defaults are those of Settings."""
    group = parser.add_argument_group('decoding', argument_default=argparse.SUPPRESS)
    group.add_argument(
        '--max_new_tokens',
        type=positive,
        metavar='T',
        help="most tokens generated, with the end-of-sequence (default: the checkpoint's own, else 128)",
    )
    group.add_argument(
        '--max_source_length',
        type=positive,
        metavar='S',
        help='input tokens, with the end-of-sequence; longer inputs are cut (default: as above, else 512)',
    )
    group.add_argument(
        '--measure',
        metavar='NAME',
        help=f'confidence measure: {", ".join(MEASURES)}, or package.module:Class (default: full depth)',
    )
    group.add_argument('--measure_options', metavar='K=V,…', help='arguments of a measure of yours')
    group.add_argument(
        '--pruning',
        metavar='KIND',
        help=f'of the vocabulary that the measure looks at above layer --min_exit_layer: {", ".join(PRUNINGS)} (default none)',
    )
    group.add_argument('--keep', type=positive, metavar='K', help=f'ids kept by rank (default {KEEP}, decaying: all)')
    group.add_argument('--keep_least', type=positive, metavar='K', help='where decaying pruning ends (default 256)')
    group.add_argument(
        '--partition',
        metavar='KIND',
        help="probabilities over the 'kept' ids, as published (default), or the 'full' vocabulary, others as "
        'they stood when dropped',
    )
    group.add_argument(
        '--alpha',
        type=float,
        metavar='α',
        help='a contrast weighs ids of at least α times the largest probability (default 0.1)',
    )
    group.add_argument(
        '--emits',
        metavar='NAME',
        help='the distribution that a contrast says tokens from: model (default), auto_contrastive or dola',
    )
    if threshold:
        group.add_argument(
            '--threshold',
            type=float,
            metavar='λ',
            help='leave when the confidence reaches it, in [0, 1]; 1 is the full model (default 1)',
        )
    group.add_argument(
        '--threshold_form',
        metavar='FORM',
        help=f'how λ becomes the threshold of a position: {", ".join(FORMS)} (default constant)',
    )
    group.add_argument('--decay_temperature', type=float, metavar='τ', help='of a decaying form (default 4)')
    group.add_argument('--min_exit_layer', type=positive, metavar='J', help='layers every token visits (default 1)')
    group.add_argument(
        '--propagation',
        metavar='NAME',
        help=f'what skipped layers hold: {", ".join(PROPAGATIONS)} (default lazy; the last two are ablations)',
    )
    group.add_argument(
        '--plan',
        metavar='PLAN',
        help='full (default), uniform:C for C evenly spaced decoder layers, or package.module:function',
    )
    group.add_argument('--temperature', type=float, metavar='X', help='0 decodes greedily (default), else samples')
    group.add_argument('--top_k', type=int, metavar='K', help='sample from the K likeliest tokens (default 0: all)')
    group.add_argument('--top_p', type=float, metavar='P', help='sample from the likeliest tokens of probability P (default 1)')
    group.add_argument('--seed', type=int, help='of sampled draws (default 0)')
    group.add_argument('--num_beams', type=positive, metavar='K', help='beam search with K sequences (default 1: none)')
    group.add_argument(
        '--length_penalty', type=float, metavar='P', help='beam search compares log-probability / length^P (default 1)'
    )
    group.add_argument(
        '--early_stopping',
        type=_early_stopping,
        metavar='WHEN',
        help='beam search ends a row with K finished sequences: true, false (default), or never',
    )
    group.add_argument('--no_repeat_ngram_size', type=int, metavar='N', help='no N tokens in a row twice (default 0: off)')
    group.add_argument('--min_new_tokens', type=int, metavar='T', help='no end of sequence before T tokens (default 0)')
    group.add_argument('--forced_first_id', type=int, metavar='ID', help='the first token (default -1: free)')
    group.add_argument('--forced_last_id', type=int, metavar='ID', help='the last token that fits (default -1: free)')
    gin_flags.add_arguments(parser)


def given(args) -> dict:
    """The settings that were said: by gin, and by flags, which win."""
    said = {}
    if args.gin_file or args.gin_binding:
        # Imported here: gin brings the training code with it, which most decoding does without.
        from calm_jax.commands import configuration

        said = configuration.decode_settings(args.gin_file, args.gin_binding, configuration.search_folders(args))
    flags = {name: getattr(args, name) for name in Settings.__dataclass_fields__ if name != 'dtype' and hasattr(args, name)}
    return {**said, **flags}


def settings(args, model) -> Settings:
    """The settings that the flags make, over the checkpoint's defaults.

    Raises ValueError for what is said and would change nothing, since its owner is off.
    """
    said = given(args)
    defaults = {name: value for name, value in model.generation.items() if name in Settings.__dataclass_fields__}
    if 'num_beams' not in said and (said.get('measure') or said.get('temperature')):
        defaults = {name: value for name, value in defaults.items() if name not in BEAMS}
    length, source_length = model.limits(said.get('max_new_tokens'), said.get('max_source_length'))
    made = Settings(
        **{**defaults, **said, 'max_new_tokens': length, 'max_source_length': source_length, 'dtype': model.config.dtype}
    )
    if said.get('dtype', made.dtype) != made.dtype:
        raise ValueError(f'Settings.dtype is {said["dtype"]}, and the model was loaded in {made.dtype}; say --dtype')
    owners = {
        '--measure': (
            made.measure is not None,
            ('measure_options', 'pruning', 'threshold_form', 'decay_temperature', 'min_exit_layer', 'propagation'),
        ),
        '--pruning': (made.pruning != 'none', ('keep', 'keep_least', 'partition')),
        '--pruning decaying': (made.pruning != 'fixed', ('keep_least',)),
        'a contrast as --measure': (made.contrasts, ('alpha', 'emits')),
        '--temperature': (made.temperature > 0, ('top_k', 'top_p', 'seed')),
        '--num_beams': (made.num_beams > 1, BEAMS[1:]),
        'a decaying --threshold_form': (made.threshold_form != 'constant', ('decay_temperature',)),
    }
    for owner, (on, owned) in owners.items():
        if not on and (idle := [name for name in owned if name in said]):
            raise ValueError(f'--{idle[0]} changes nothing without {owner}')
    return made


def stream(model, texts, settings: Settings, batch_size, first=0):
    """Outputs of the texts under these settings."""
    values = settings.build(model.config, model.heads)
    return model.stream(
        texts,
        exit=values.exit,
        plan=values.plan,
        propagation=values.propagation,
        sampling=values.sampling,
        constraints=values.constraints,
        beam=values.beam,
        max_new_tokens=settings.max_new_tokens,
        max_source_length=settings.max_source_length,
        batch_size=batch_size,
        seed=settings.seed,
        first=first,
    )


def _early_stopping(text):
    """True, False or 'never'."""
    known = {'true': True, 'false': False, 'never': 'never'}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f'{text!r}; expected true, false or never')
    return known[text.lower()]


def use_compilation_cache():
    """Keeps compiled programs between runs, in $JAX_COMPILATION_CACHE_DIR or the user's cache folder."""
    if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
        base = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
        jax.config.update('jax_compilation_cache_dir', str(base / 'calm_jax'))
