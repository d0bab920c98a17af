"""Where the program is."""

from __future__ import annotations

import os
import shutil
import sysconfig

from .errors import GristmillError

_NAME = "gristmill.exe" if os.name == "nt" else "gristmill"


def find() -> str:
    """Returns the program's path: beside this interpreter, else in ``PATH``, else ``GRISTMILL_BINARY``."""
    schemes = [sysconfig.get_path("scripts")]
    user = "nt_user" if os.name == "nt" else "posix_user"
    if user in sysconfig.get_scheme_names():
        schemes.append(sysconfig.get_path("scripts", user))
    for path in schemes:
        program = os.path.join(path, _NAME)
        if os.access(program, os.X_OK):
            return program
    program = shutil.which(_NAME) or os.environ.get("GRISTMILL_BINARY", "")
    if program and os.access(program, os.X_OK):
        return program
    raise GristmillError(
        f"the program gristmill is not here: neither in {schemes[0]} nor in PATH",
        hint="install this package with pip, which brings it, or set GRISTMILL_BINARY to its path",
    )
