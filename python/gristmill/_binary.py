"""Where the program is."""

from __future__ import annotations

import os
import shutil
import sysconfig

from .errors import GristmillError

_NAME = "gristmill.exe" if os.name == "nt" else "gristmill"
_VARIABLE = "GRISTMILL_BINARY"


def find() -> str:
    """Returns the program's path: what ``GRISTMILL_BINARY`` names, else beside this interpreter, else in ``PATH``."""
    named = os.environ.get(_VARIABLE)
    if named:
        return _named(named)
    schemes = [sysconfig.get_path("scripts")]
    user = "nt_user" if os.name == "nt" else "posix_user"
    if user in sysconfig.get_scheme_names():
        schemes.append(sysconfig.get_path("scripts", user))
    for path in schemes:
        program = os.path.join(path, _NAME)
        if _is_program(program):
            return program
    found = shutil.which(_NAME)
    if found:
        return found
    raise GristmillError(
        f"the program gristmill is not here: neither in {schemes[0]} nor in PATH",
        hint=f"install this package with pip, which brings it, or set {_VARIABLE} to its path",
    )


def _named(path: str) -> str:
    if _is_program(path):
        return os.path.abspath(path)
    if os.path.isdir(path):
        what = "is a folder"
        inside = os.path.join(path, _NAME)
        hint = f"set it to {inside}" if _is_program(inside) else "set it to the program itself"
    else:
        what = "may not be executed" if os.path.exists(path) else "is not there"
        hint = "set it to the program, or unset it to use the one that pip installed"
    raise GristmillError(f"{_VARIABLE} is set, and {path}, which it names, {what}", hint=hint)


def _is_program(path: str) -> bool:
    # A folder may be "executed" as well.
    return os.path.isfile(path) and os.access(path, os.X_OK)
