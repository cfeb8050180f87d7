"""What is not installed, said with the extra of Halftone that brings it.

    with extra("report", "The model card"):
        import jinja2

Packages that only some commands need are imported where they are needed, behind this.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from halftone.spec.errors import EnvironmentFault
from halftone.spec.names import Reason


@contextmanager
def extra(name: str, what: str, otherwise: str = "") -> Iterator[None]:
    """Turn the lack of a package into EnvironmentFault(MissingDependency), which names the extra.

    `what` begins the sentence, `otherwise` is another way out, as its end. That one of our own
    modules is not there is a fault of ours, and stays what it is.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("halftone"):
            raise
        package = error.name.partition(".")[0]
        raise EnvironmentFault(
            Reason.MissingDependency,
            package,
            f"{what} needs {package}, which is not installed; run `pip install "
            f"'halftone[{name}]'`{otherwise}.",
        ) from error
