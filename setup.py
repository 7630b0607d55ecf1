"""The one thing that pyproject.toml cannot say: where the gin tree stands."""

import pathlib

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = pathlib.Path(__file__).parent


class BuildWithGin(build_py):
    """Copies the gin tree, which lives at the top of the checkout, where a user edits it, into the package of a wheel.

    It is no package of its own: one named gin would shadow gin itself, and one mapped into calm_jax would hide an editable
    install from type checkers.
    """

    def run(self):
        super().run()
        if not self.editable_mode:
            for source in sorted((ROOT / 'gin').rglob('*.gin')):
                target = pathlib.Path(self.build_lib, 'calm_jax', source.relative_to(ROOT))
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))


setup(cmdclass={'build_py': BuildWithGin})
