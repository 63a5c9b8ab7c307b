"""How the JVM is started: with a log4j2 configuration that prints JSON, unless the user configured log4j.

log4j 2.17.1, as packaged with TorchServe 0.12.0, takes its configuration from a Java system property, else from
``LOG4J_CONFIGURATION_FILE``, else from a file on the class path, which starts with the working directory
(https://logging.apache.org/log4j/2.x/manual/configuration.html, "Automatic Configuration"; ts/model_server.py,
``class_path``). We set the property, which beats the others; so every one of them is looked at first.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import subprocess
import sys
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Optional

from ts_otel_logging._relay import LAST_WRITE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FOLDER: Final = Path(__file__).resolve().parent
# log4j merges the listed files, the later ones over the earlier: ours hold only what differs from the packaged one.
_PACKAGED: Final = "classpath:log4j2.xml"
_FILES: Final = {
    "json": ("_log4j2.xml",),
    "json+files": ("_log4j2.xml", "_log4j2_json_files.xml"),
    "json-only": ("_log4j2.xml", "_log4j2_no_files.xml"),
}
_FOR_PEOPLE: Final = "_log4j2_people.xml"

# fcntl.F_SETPIPE_SZ has a name from Python 3.10 (Linux: include/uapi/linux/fcntl.h).
_F_SETPIPE_SZ: Final = 1031
_PIPE_BYTES: Final = 1024 * 1024
# What the relay itself waits, and a little more.
_LAST_LINES_SECONDS: Final = LAST_WRITE_SECONDS + 1.0

# log4j takes its property names in several spellings (org.apache.logging.log4j.util.PropertySource.Util).
_CONFIGURATION_FILE: Final = re.compile(r"-Dlog4j2?[-._/]?configuration[-._/]?file=", re.IGNORECASE)
_CONFIGURATION_VARIABLE: Final = "LOG4J_CONFIGURATION_FILE"
# Where a JVM finds more arguments (JDK's `java` command reference; HotSpot's arguments.cpp for the last).
_OPTION_VARIABLES: Final = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")
# What the packaged log4j finds by itself in the working directory; it has no parser for YAML and JSON. The last one
# holds properties of log4j, the configuration file's place among them.
_FOUND_IN_WORKING_DIRECTORY: Final = (
    "log4j2-test.properties",
    "log4j2-test.xml",
    "log4j2.properties",
    "log4j2.xml",
    "log4j2.component.properties",
)


class FrontendDecision(str, Enum):
    """Why the frontend prints what it prints: JSON, or one of the reasons for leaving it alone."""

    JSON = "json"
    OFF = "off"
    ARGUMENT = "log4j configuration by --log-config or vmargs"
    JAVA_OPTIONS = "log4j configuration in JAVA_TOOL_OPTIONS, JDK_JAVA_OPTIONS or _JAVA_OPTIONS"
    VARIABLE = "LOG4J_CONFIGURATION_FILE"
    WORKING_DIRECTORY = "log4j2 configuration in the working directory"

    # Without it Python 3.11 and 3.9 format a member differently.
    def __str__(self) -> str:
        return self.value


class JavaCommand(NamedTuple):
    """What to run.

    Attributes:
        command: The program and its arguments.
        decision: Why the arguments are these.
    """

    command: list[str]
    decision: FrontendDecision


def java_command(  # noqa: PLR0913 - each decides about the arguments
    command: Sequence[str],
    environ: Mapping[str, str],
    cwd: str,
    *,
    frontend: str,
    level: int = logging.INFO,
    colors: Optional[bool] = None,
) -> JavaCommand:
    """Return TorchServe's command for the JVM, with the console's log4j2 configuration added where we may.

    Args:
        command: ``java`` and its arguments as ``ts.model_server.start`` built them; it is not changed.
        environ: The environment that the JVM will have.
        cwd: The working directory that the JVM will have.
        frontend: ``json`` for JSON on the console with TorchServe's log files as before, ``json+files`` for JSON in
            those too, ``json-only`` for no log files, ``off`` for stock.
        level: The least level of the console's lines. The access log has all of its lines. With ``DEBUG`` and below
            come those that TorchServe prints for every request without saying anything new, and metrics.
        colors: Whether text for people has colours; None for JSON in its place.
    """
    decision = _decide(command, environ, cwd, frontend)
    arguments = list(command)
    if decision is FrontendDecision.JSON:
        # A file URI has neither spaces nor the commas, question marks and ${…} that mean something to log4j here.
        names = _FILES[frontend] if colors is None else (*_FILES[frontend], _FOR_PEOPLE)
        files = ",".join((_PACKAGED, *((_FOLDER / name).as_uri() for name in names)))
        options = [f"-Dlog4j.configurationFile={files}", f"-Dts_otel_logging.level={_log4j_level(level)}"]
        if level <= logging.DEBUG:
            options.append("-Dts_otel_logging.chatter=NEUTRAL")
        # Without log files the console is the only place that metrics are written to.
        if level <= logging.DEBUG or frontend == "json-only":
            options.append("-Dts_otel_logging.metrics=ALL")
        if colors:
            options.append("-Dts_otel_logging.plain=false")
        # First, so that the same property among arguments we cannot see, those of an @argument-file, wins over ours.
        arguments[1:1] = options
    return JavaCommand(arguments, decision)


def _log4j_level(level: int) -> str:
    # The least of log4j's levels that holds none below the wanted one.
    levels = ((logging.DEBUG - 1, "ALL"), (10, "DEBUG"), (20, "INFO"), (30, "WARN"), (40, "ERROR"), (50, "FATAL"))
    return next((name for least, name in levels if level <= least), "OFF")


class Relay:
    """The process that hands the JVM's console on, so that a console nobody reads does not stall TorchServe.

    Args:
        max_record_bytes: The longest line.
        redact: What it masks besides the built-in lists, as for `Redaction`.

    Attributes:
        stdout: The descriptor that the JVM's standard output is to be; `close` closes it here.
        stderr: The same of its standard error.

    Raises:
        OSError: It could not be started.
    """

    def __init__(self, max_record_bytes: int, redact: Sequence[str] = ()) -> None:
        stdout_source, self.stdout = os.pipe()
        stderr_source, self.stderr = os.pipe()
        sources = stdout_source, stderr_source
        for descriptor in (self.stdout, self.stderr):
            # Room for a burst; not every system lets everybody have it.
            with suppress(OSError):
                fcntl.fcntl(descriptor, _F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            # The interpreter alone: no start-up files, no packages, a fraction of the time.
            self._process = subprocess.Popen(  # noqa: S603 - our own file
                [
                    *(sys.executable, "-I", "-S", str(_FOLDER / "_relay.py")),
                    *(*map(str, sources), str(max_record_bytes), *redact),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=sources,
            )
        except BaseException:
            self.close()
            raise
        finally:
            for source in sources:
                os.close(source)

    def close(self) -> None:
        """Leave the descriptors to the JVM: the relay ends when nobody has them any more."""
        os.close(self.stdout)
        os.close(self.stderr)

    def wait(self) -> None:
        """Wait until the console has the JVM's last lines; a few seconds at most."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_LINES_SECONDS)


def _decide(command: Sequence[str], environ: Mapping[str, str], cwd: str, frontend: str) -> FrontendDecision:
    if frontend == "off":
        return FrontendDecision.OFF
    if any(_CONFIGURATION_FILE.match(argument) for argument in command):
        return FrontendDecision.ARGUMENT
    if any(_CONFIGURATION_FILE.search(environ.get(name, "")) for name in _OPTION_VARIABLES):
        return FrontendDecision.JAVA_OPTIONS
    if environ.get(_CONFIGURATION_VARIABLE):
        return FrontendDecision.VARIABLE
    if any(Path(cwd, name).exists() for name in _FOUND_IN_WORKING_DIRECTORY):
        return FrontendDecision.WORKING_DIRECTORY
    return FrontendDecision.JSON
