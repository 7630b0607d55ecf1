"""Print what a certificate promises, of which settings, found how, and what it depends on.

    calm certificate c.json

A certificate that was changed since it was written promises nothing, and is refused in one line.
"""

import argparse
import re
from collections.abc import Iterator
from typing import Any

from calm_jax.calibration import Certificate
from calm_jax.commands.plain_table import plain_table

# What outputs are held against: of the parameters that the certificate is bound to.
REFERENCE = 'this checkpoint, all layers and the full plan'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `calm certificate`."""
    parser.add_argument('file', metavar='FILE', help='certificate, as `calm calibrate` writes it')


def run(args: argparse.Namespace) -> None:
    """Prints the promise in its words, and everything that it is of, a line each."""
    certificate = Certificate.load(args.file)
    print(certificate.guarantee)
    for title, content in parts(certificate).items():
        rows = [[f'  {name}', value] for name, value in leaves(content)]
        if rows:
            print(f'\n{title}\n{plain_table(rows)}')


def parts(certificate: Certificate) -> dict[str, dict[str, Any]]:
    """What a certificate says, by title: the promise, how it decodes, how that was found, its speed, and what it binds."""
    tested = [point for point in certificate.grid if point.p_value is not None]
    provenance = dict(certificate.provenance)
    data, environment = provenance.pop('data', {}), provenance.pop('environment', {})
    return {
        'promise': {
            'objective': certificate.objective,
            'metric': certificate.metric,
            'reference': REFERENCE if 'parameters' in provenance else None,
            'δ': certificate.tolerance,
            'ε': certificate.epsilon,
            'certificates that share ε': certificate.joint if certificate.joint > 1 else None,
            'loss measured, of δ': certificate.tolerance_used,
        },
        'decoding' if certificate.found else 'decoding: full depth, nothing was certified': certificate.decoding,
        'found': {
            'examples': certificate.examples,
            'clusters': certificate.n if certificate.clustered else None,
            'groups': certificate.groups,
            'settings': f'{len(tested)} of {len(certificate.grid)} tested, {sum(point.rejected for point in tested)} valid',
            'p-value': certificate.p_value,
            'procedure': certificate.procedure,
            certificate.cost_unit or 'cost': certificate.cost,
            'data': data,
        },
        'speed': certificate.speed or {},
        'bound to': {**provenance, 'semantics': certificate.semantics},
        'measured with': environment,
    }


def leaves(content: dict[str, Any], path: str = '') -> Iterator[tuple[str, str]]:
    """Every value inside that is there, by dotted name, as it is written; of a fingerprint the first digits."""
    for name, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, f'{path}{name}.')
        elif value is not None:
            text = f'{value:g}' if isinstance(value, float) else str(value)
            yield f'{path}{name}', f'{text[:12]}…' if re.fullmatch('[0-9a-f]{64}', text) else text
