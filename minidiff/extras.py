"""Optional libraries: imported where they are used, and named with the extra that installs them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def require(module: str, extra: str = "book") -> ModuleType:
    """Import and return an optional module.

    Raises ImportError that names the extra to install, `pip install "minidiff[extra]"`, when it is missing.
    """
    try:
        return import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise ImportError(
            f'{library} is needed here and could not be imported ({error}): pip install "minidiff[{extra}]"'
        ) from error
