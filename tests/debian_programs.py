"""Programs from Debian that tests run: the system's own, or those that `tools/debian-programs` unpacked."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

_TOOL = Path(__file__).parent.parent / "tools" / "debian-programs"
_ROOT = Path(subprocess.run([_TOOL, "--print"], stdout=subprocess.PIPE, check=True, text=True).stdout.strip())
_LIBRARIES = f"lib/{sysconfig.get_config_var('MULTIARCH') or 'x86_64-linux-gnu'}"


def program(name: str) -> str:
    """Return where a program is.

    Raises:
        FileNotFoundError: ``make debian-programs`` has not been run.
    """
    folders = [root / folder for root in (_ROOT, Path("/")) for folder in ("usr/bin", "usr/sbin", "bin", "sbin")]
    folders += [folder for root in (_ROOT, Path("/")) for folder in root.glob("usr/lib/postgresql/*/bin")]
    found = shutil.which(name, path=os.pathsep.join(map(str, folders)))
    if found is None:
        raise FileNotFoundError(f"{name}: run `make debian-programs`")
    return found


def library(path: str) -> str:
    """Return where a package's file or folder is below the folder of libraries."""
    return next(
        str(root / folder / path)
        for root in (_ROOT, Path("/"))
        for folder in (f"usr/{_LIBRARIES}", "usr/lib")
        if (root / folder / path).exists()
    )


def environ() -> dict[str, str]:
    """Return an environment in which the unpacked programs find their libraries."""
    folders = [str(_ROOT / folder) for folder in (f"usr/{_LIBRARIES}", _LIBRARIES, "usr/lib/syslog-ng")]
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(folders)}


def as_ordinary_user() -> dict[str, Any]:
    """Return arguments for `subprocess.Popen`: some servers refuse to be root's."""
    if os.getuid():
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
