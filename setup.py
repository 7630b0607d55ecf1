"""calm_jax: adaptive-depth text generation in JAX, with guarantees."""

import pathlib

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent

# The gin tree lives at the top of the checkout, where a user edits it, and inside the package once installed. It holds
# no __init__.py: a top-level package of that name would shadow gin itself.
GIN = {
    ('calm_jax.' + '.'.join(folder.relative_to(ROOT).parts)): str(folder.relative_to(ROOT))
    for folder in [ROOT / 'gin', *sorted((ROOT / 'gin').rglob('*'))]
    if folder.is_dir() and folder.name != '__pycache__'
}


def files(package, *patterns):
    """Paths of a package's data, relative to it."""
    folder = ROOT / 'calm_jax' / package
    return [str(path.relative_to(folder)) for pattern in patterns for path in sorted(folder.rglob(pattern)) if path.is_file()]


SEQIO = ['seqio==0.0.20', 'tensorflow-text', 'tensorflow-datasets', 'importlib_resources']
HF = ['transformers']
DEMO = ['Babel==2.18.0']

setup(
    name='calm_jax',
    version='0.1.0',
    description='Adaptive-depth text generation in JAX, with statistical guarantees',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.11,<3.14',
    packages=find_packages(include=['calm_jax', 'calm_jax.*']) + list(GIN),
    package_dir=GIN,
    package_data={
        **{package: ['*.gin'] for package in GIN},
        'calm_jax.report': ['*.jinja', '*.css', '*.js'],
        'calm_jax.demo': ['NOTICE*', *files('demo', 'assets/**/*')],
    },
    install_requires=[
        'jax>=0.10',
        'flax>=0.12.8,<0.13',
        'optax',
        'orbax-checkpoint',
        'numpy',
        'scipy',
        'gin-config==0.5.0',
        'absl-py',
        'rouge-score',
        'sacrebleu',
        'safetensors',
        'sentencepiece',
        'tokenizers',
        'grain',
        'rich',
        'matplotlib',
        'jinja2',
    ],
    extras_require={
        'seqio': SEQIO,
        'hf': HF,
        't5x': ['t5x @ git+https://github.com/google-research/t5x'],
        'bench': ['torch==2.13.0', 'transformers', 'ctranslate2'],
        'demo': DEMO,
        'test': ['pytest', 'pytest-xdist', 'ruff', *SEQIO, *HF, *DEMO],
    },
    entry_points={'console_scripts': ['calm=calm_jax.cli:console']},
)
