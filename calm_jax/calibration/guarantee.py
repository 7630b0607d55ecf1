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
    noise = ' and of the noise that seed and id give to each' if _sampled(certificate.decoding) else ''
    others = f', jointly over {certificate.joint} certificates,' if certificate.joint > 1 else ''
    if not certificate.found:
        return (
            f'No setting could be certified at epsilon {certificate.epsilon:g}{others} on {drawn}: '
            "decode at full depth, which is the full model's own output."
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
    return (
        f'With probability at least {1 - certificate.epsilon:.6g}{others} over the draw of {drawn}{noise}, '
        f'when decoding {_way(certificate)} the expected {quantity} is {bounds} '
        f'on new {units}{where} drawn independently from the same distribution as the calibration data, '
        'provided that the grid and every other choice recorded here was made without looking at that data.'
    )


def _way(certificate: 'Certificate') -> str:
    """How to decode: with a λ alone, or as the document says."""
    if certificate.threshold is None:
        return 'as recorded here'
    words = f'with threshold {certificate.threshold}'
    return f'as recorded here, {words},' if certificate.decoding else words


def _sampled(decoding: dict) -> bool:
    """Whether the document's tokens are drawn: its `choice` is of the class `sampled`."""
    choice = decoding.get('choice')
    name = choice.get('class') if isinstance(choice, dict) else choice
    return str(name).rpartition(':')[2].lower() == 'sampled'
