"""Decoding within a certificate: what a model is recognised by, what may only warn, and whether a certificate covers a run."""

import datetime
import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import jax

import calm_jax
from calm_jax import formats
from calm_jax.calibration import Certificate
from calm_jax.calibration.certificate import AS_BEFORE
from calm_jax.checkpoints.native import config_fingerprint, fingerprint
from calm_jax.data.tokenizers import Tokenizer
from calm_jax.data.windows import row_bucket
from calm_jax.decoding import codec
from calm_jax.decoding.choice import Beam
from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.generate import of_use
from calm_jax.decoding.packing import Packing
from calm_jax.machine import device
from calm_jax.models.config import TransformerConfig
from calm_jax.models.joined import split
from calm_jax.tasks import Task, to_json

_LOGGER = logging.getLogger('calm_jax')
_ALIKE = 'the guarantee is for inputs made alike'
_warned: set[str] = set()  # what this process has said already


def fingerprints(
    config: TransformerConfig, params: dict, heads: dict | None, tokenizer: Tokenizer, task: Task | None = None
) -> dict[str, str]:
    """What decides the output of a model beside the decoding: the dtype that it computes in, and sha256 of its parameters,
    heads, configuration and tokenizer, and of its task where it has one. A run under another of them is another run, and no
    certificate covers it."""
    of_task = {} if task is None else {'task': hashlib.sha256(json.dumps(to_json(task)).encode()).hexdigest()}
    return {
        'dtype': config.dtype,  # first, as parameters are stored in it
        'parameters': fingerprint(split(params, config)),
        'heads': fingerprint(heads or {}),
        'config': config_fingerprint(config),
        'tokenizer': tokenizer.fingerprint(),
        **of_task,
    }


def environment(batch_size: int, pack: str | Packing, examples: int | None = None) -> dict[str, Any]:
    """What may change a few tokens by rounding, and so gives a warning where it differs from a certificate's.

    batch_size: rows asked for; recorded is what the largest batch of so many examples has (None: as many as it takes). pack:
    how they are kept together, a packing, 'refill' or 'none'.
    """
    return {
        'backend': jax.default_backend(),
        'jax': jax.__version__,
        'calm_jax': calm_jax.__version__,
        'batch_size': batch_size if examples is None else row_bucket(examples, batch_size),
        'pack': str(pack),
    }


def kept_together(decoding: Decoding, pack: str | Packing) -> str:
    """What a pack, as `environment` takes or records it, comes to for one decoding: a packing is that part of it which the
    decoding has a use for, only refills where there is none, and beams stay in their batches."""
    if isinstance(decoding.choice, Beam):
        return 'none'
    if pack in ('none', 'refill'):
        return str(pack)
    return str(of_use(pack if isinstance(pack, Packing) else Packing.parse(pack), decoding) or 'refill')


def decoding_of(certificate: Certificate, heads: dict | None = None, classes: Sequence[type] = ()) -> Decoding:
    """The decoding that a certificate is of; full depth where nothing was certified.

    heads: of the model, which hold a measure's trained arrays. classes: of the user's own that the certificate names.
    Raises ValueError for a certificate that names no decoding, what `codec.from_json` raises, and another semantics.
    """
    if certificate.semantics != formats.SEMANTICS:
        raise ValueError(
            f'the certificate is of decoding semantics {certificate.semantics}, and this calm_jax decodes under '
            f'{formats.SEMANTICS}: its tokens may differ: calibrate again'
        )
    if not certificate.decoding:
        raise ValueError('the certificate says nothing of how to decode; expected one that `calm calibrate` wrote')
    return codec.from_json(certificate.decoding, heads=heads, classes=classes)


def check_model(certificate: Certificate, fingerprints: dict[str, str]) -> None:
    """Raises ValueError, naming the first difference, where the certificate is of another model."""
    environment = certificate.provenance.get('environment', {})
    certificate.covers({'decoding': certificate.decoding, **fingerprints, 'environment': environment})


def check(certificate: Certificate, decoding: Decoding, fingerprints: dict[str, str], environment: dict[str, Any]) -> list[str]:
    """Warnings, one line each, where the certificate covers a run of this decoding, model and environment; of a speed that was
    measured in the like of it and is below full depth's too.

    Raises ValueError, naming the first difference, where it does not.
    """
    pack, recorded = kept_together(decoding, environment['pack']), _recorded(certificate, 'environment', 'pack')
    # What is recorded is of all points that were calibrated, and this one may have less use for it.
    alike = isinstance(recorded, str) and kept_together(decoding, recorded) == pack
    environment = {**environment, 'pack': recorded if alike else pack}
    warnings = certificate.covers({'decoding': codec.to_json(decoding), **fingerprints, 'environment': environment})
    speed = speed_here(certificate, environment['batch_size'], pack)
    if speed is None or speed['speed_up'] >= 1:
        return warnings
    return [
        *warnings,
        f'decoding as certified is slower here than full depth: it was measured at {speed["speed_up"]:.2f} times its speed '
        f'({speed["device"]}, batch size {speed["batch_size"]}, pack {pack})',
    ]


def speed_conditions(batch_size: int, pack: str | Packing) -> dict[str, Any]:
    """What a measured speed holds for: the backend, the kind of device, the rows decoded together, and how they are kept so."""
    return {'backend': jax.default_backend(), 'device': device(), 'batch_size': batch_size, 'pack': str(pack)}


def speed_here(certificate: Certificate, batch_size: int, pack: str | Packing) -> dict[str, Any] | None:
    """The certificate's own measurement of its speed, where it was made under these conditions; else None."""
    if certificate.speed is None:
        return None
    speed = {**AS_BEFORE, **certificate.speed}
    if any(speed.get(name) != value for name, value in speed_conditions(batch_size, pack).items()):
        return None
    return speed if isinstance(speed.get('speed_up'), int | float) else None


def recorded_batch_size(certificate: Certificate) -> int | None:
    """Rows decoded together when the certificate was made; None where it does not say."""
    return _recorded(certificate, 'environment', 'batch_size')


def recorded_source_field(certificate: Certificate) -> str | None:
    """The field or template that made inputs of records when the certificate was made; None where it does not say."""
    return _recorded(certificate, 'data', 'source_field')


def of_conversations(certificate: Certificate) -> bool:
    """Whether all inputs were conversations when the certificate was made, so that a text is what a user says in one."""
    count = _recorded(certificate, 'data', 'conversations')
    return count is not None and count == _recorded(certificate, 'data', 'examples')


def recorded_date(certificate: Certificate) -> datetime.datetime | None:
    """What the chat template was told of the day when the certificate was made; None where it did not ask."""
    date = _recorded(certificate, 'data', 'date')
    return None if date is None else datetime.datetime.fromisoformat(date)


def source_warnings(certificate: Certificate, source_field: str, conversation: bool = False) -> list[str]:
    """A warning where inputs are made of records otherwise than when the certificate was made. conversation: whether they are
    such."""
    recorded = recorded_source_field(certificate)
    if recorded not in (None, source_field):
        return [f'source_field is {source_field!r} here, {recorded!r} in the certificate: {_ALIKE}']
    if recorded is not None and conversation and not _recorded(certificate, 'data', 'conversations'):
        return [f'inputs are conversations here, and none was when the certificate was made: {_ALIKE}']
    return []


def date_warnings(certificate: Certificate, date: datetime.datetime | None) -> list[str]:
    """A warning where prompts are to say another date than when the certificate was made. date: None, where it is to decide."""
    recorded = recorded_date(certificate)
    if recorded is None or date in (None, recorded):
        return []
    return [f'date is {date} here, {recorded} in the certificate: {_ALIKE}']


def warn(warnings: Iterable[str]) -> None:
    """Logs warnings to the logger `calm_jax`, each once in a process."""
    for warning in warnings:
        if warning not in _warned:
            _warned.add(warning)
            _LOGGER.warning(warning)


def _recorded(certificate: Certificate, part: str, name: str) -> Any:
    content = certificate.provenance.get(part)
    return content.get(name) if isinstance(content, dict) else None
