"""The guarantee of a certificate, as one sentence."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calm_jax.calibration.certificate import Certificate

OBJECTIVES = {'textual': "dissimilarity to the full model's output", 'risk': "loss above the full model's"}


def sentence(certificate: 'Certificate') -> str:
    """What holds, how surely, on which distribution and under which condition (CALM Eq. 1 and 2)."""
    data = certificate.provenance.get('data')
    name = f' ({data["name"]})' if isinstance(data, dict) and data.get('name') else ''
    drawn = f'{certificate.n:,} calibration {"clusters" if certificate.clustered else "examples"}{name}'
    others = f', jointly over {certificate.joint} certificates,' if certificate.joint > 1 else ''
    if not certificate.found:
        return (
            f'No setting could be certified at epsilon {certificate.epsilon:g}{others} on {drawn}: '
            "decode at full depth (threshold 1), which is the full model's own output."
        )
    quantity = OBJECTIVES.get(certificate.objective or '', 'loss')
    if certificate.signed:
        quantity = 'signed difference in loss from the full model (gains count against losses)'
    if isinstance(certificate.metric, str):
        quantity += f' ({certificate.metric})'
    if isinstance(certificate.tolerance, dict):
        bounds = ' and '.join(f'at most {tolerance} for {risk}' for risk, tolerance in certificate.tolerance.items())
    else:
        bounds = f'at most {certificate.tolerance}'
    units = 'clusters (averaged within each)' if certificate.clustered else 'examples'
    where = f' in each group ({", ".join(certificate.groups)})' if certificate.groups else ''
    setting = ''.join(f', {key} {value}' for key, value in certificate.setting.items())
    return (
        f'With probability at least {1 - certificate.epsilon:.6g}{others} over the draw of {drawn}, '
        f'when decoding with threshold {certificate.threshold}{setting} the expected {quantity} is {bounds} '
        f'on new {units}{where} drawn independently from the same distribution as the calibration data, '
        'provided that the grid and every other choice recorded here was made without looking at that data.'
    )
