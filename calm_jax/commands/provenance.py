"""Where a JSON file comes from: the command as it would be typed again, the machine, the date, what decoded and from what."""

import datetime
import shlex

from calm_jax.machine import processor

UNSAID = ('command', 'analysis', 'quiet', 'overwrite', 'json', 'decode_flags')  # no flags, or none that decide what is written


def provenance(command: str, args, *, seed: int, settings: dict, fingerprints: dict, data: dict | None) -> dict:
    """What every result says of itself; `calm report` prints command, machine, date and seed.

    command: its name, with its sub-command. settings: resolved, of the one way to decode or by name of several.
    fingerprints: of parameters and tokenizer. data: as `data_of`; None where there were no examples.
    """
    import jax  # not for those who only ask for the origin

    device = jax.devices()[0]
    base = origin(command, args, seed)
    return {
        **base,
        'machine': f'{base["machine"]}, {device.platform} {device.device_kind}',
        'jax': jax.__version__,
        'checkpoint': args.checkpoint,
        'fingerprints': fingerprints,
        'data': data,
        'settings': settings,
    }


def origin(command: str, args, seed: int | None) -> dict:
    """What a result says of itself that no model made. seed: None where nothing is drawn."""
    return {'command': typed(command, args), 'machine': processor(), 'date': datetime.date.today().isoformat(), 'seed': seed}


def typed(command: str, args) -> str:
    """The command as a line of shell, from its parsed flags; what has no value is left out."""
    words = ['calm', *command.split()]
    decoding = args.decode_flags.flags if hasattr(args, 'decode_flags') else {}
    for name, value in vars(args).items():
        if name in UNSAID:
            continue
        if name in decoding:
            for each in value if isinstance(value, list) else [value]:
                words += [f'--{name}', str(each).lower() if isinstance(each, bool) else str(each)]
            continue
        for each in value if isinstance(value, list) else [value]:
            if each is True:
                words.append(f'--{name}')
            elif each is not None and each is not False and each != '':
                words += [f'--{name}', str(each)]
    return shlex.join(words)
