"""The stamp of a file that outlives its process: what it is, the version of its format, the semantics of its decode.

    {"format": "calm_jax certificate", "version": 2, "semantics": 2}

A version is raised when files of the older one can no longer be read as they are; a new field whose default means "as
before" raises nothing. Version 1 is what calm_jax 0.1.0 wrote, which is not read. The lines of a decoded file carry no stamp:
they belong to their header.
"""

SEMANTICS = 2  # raised, with a line in the changelog, when the float64 tokens of some decode change
VERSIONS = {
    'certificate': 2,
    'records': 2,  # the header of a decoded file, and records.json
    'checkpoint': 2,  # config.json of a native checkpoint
}
OLDEST = 2  # the oldest version that is read, of every kind
REMEDIES = {'certificate': 'calibrate again', 'records': 'decode again', 'checkpoint': 'import again'}


def stamp(kind: str) -> dict:
    """The first entries of a new file of this kind, one of VERSIONS."""
    return {'format': f'calm_jax {kind}', 'version': VERSIONS[kind], 'semantics': SEMANTICS}


def check(content, kind: str, where: str, shown: bool = False) -> None:
    """ValueError in one line, `where` first, unless `content` (parsed JSON) is stamped as a file of this kind to read here.

    Refused: another kind, what calm_jax 0.1.0 wrote, a newer version; and another semantics, but for a checkpoint, whose
    parameters are the same under any, and for what is only `shown`, which stands for no decode of this version.
    """
    expected = f'calm_jax {kind}'
    if _is_of_0_1_0(content, kind):
        raise ValueError(f'{where}: written by calm_jax 0.1.0, whose {kind} format is no longer read: {REMEDIES[kind]}')
    if not isinstance(content, dict) or content.get('format') != expected:
        raise ValueError(f'{where}: not a {kind} file; expected a JSON object with "format": "{expected}"')
    version, semantics = content.get('version', 0), content.get('semantics', 0)
    for name, number in (('version', version), ('semantics', semantics)):
        if type(number) is not int or number < (OLDEST if name == 'version' else 1):
            raise ValueError(f'{where}: no "{name}", or a damaged one; {REMEDIES[kind]}')
    if version > VERSIONS[kind]:
        raise ValueError(
            f'{where}: {kind} format version {version}, and this calm_jax reads up to {VERSIONS[kind]}: upgrade calm_jax'
        )
    if semantics != SEMANTICS and kind != 'checkpoint' and not shown:
        raise ValueError(
            f'{where}: made under decoding semantics {semantics}, and this calm_jax decodes under {SEMANTICS}: '
            f'its tokens may differ: {REMEDIES[kind]}'
        )


def _is_of_0_1_0(content, kind: str) -> bool:
    """Whether calm_jax 0.1.0 wrote it: it named certificates and checkpoints otherwise, and records not at all."""
    if not isinstance(content, dict):
        return False
    if kind == 'records':
        return 'format' not in content and 'settings' in content and ('input' in content or 'fingerprints' in content)
    return content.get('format') == {'certificate': 'calm_jax certificate 1', 'checkpoint': 'calm_jax'}[kind]
