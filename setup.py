"""What `pyproject.toml` cannot say: a wheel has the viewer's page, made of its sources."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithPage(build_py):
    """Makes the page before the package is put together; without npm there is a wheel all the same.

    An editable install makes nothing: `wsiseg view` does, when it is first used.
    """

    def run(self) -> None:
        """Make the page, then do what is usual."""
        if not self.editable_mode:
            make_page()
        super().run()


def make_page() -> None:
    """Make the page unless it is there, and say so where that fails."""
    sys.path.insert(0, str(Path(__file__).parent))
    from wsiseg.errors import RunError
    from wsiseg.view.build import ready_page

    try:
        ready_page()
    except RunError as error:
        print(f"the wheel has no viewer: {error}", file=sys.stderr)  # noqa: T201
    finally:
        sys.path.pop(0)


setup(cmdclass={"build_py": BuildWithPage})
