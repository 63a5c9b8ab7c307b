"""The JVM's command line with a log4j2 configuration that prints JSON, unless the user configured log4j.

log4j 2.17.1, as packaged with TorchServe 0.12.0, takes its configuration from a Java system property, else from
``LOG4J_CONFIGURATION_FILE``, else from a file on the class path, which starts with the working directory
(https://logging.apache.org/log4j/2.x/manual/configuration.html, "Automatic Configuration"; ts/model_server.py,
``class_path``). We set the property, which beats the others; so every one of them is looked at first.
"""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_OURS: Final = Path(__file__).with_name("_log4j2.xml").resolve()
# log4j merges the listed files, the later ones over the earlier: ours holds only what differs from the packaged one.
_PACKAGED: Final = "classpath:log4j2.xml"

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


def java_command(command: Sequence[str], environ: Mapping[str, str], cwd: str, *, frontend: str) -> JavaCommand:
    """Return TorchServe's command for the JVM, with the console's log4j2 configuration added where we may.

    Args:
        command: ``java`` and its arguments as ``ts.model_server.start`` built them; it is not changed.
        environ: The environment that the JVM will have.
        cwd: The working directory that the JVM will have.
        frontend: ``json`` for JSON on the console with TorchServe's log files as before, ``off`` for stock.
    """
    decision = _decide(command, environ, cwd, frontend)
    arguments = list(command)
    if decision is FrontendDecision.JSON:
        # First, so that the same property among arguments we cannot see, those of an @argument-file, wins over ours.
        # A file URI has neither spaces nor the commas, question marks and ${…} that mean something to log4j here.
        arguments.insert(1, f"-Dlog4j.configurationFile={_PACKAGED},{_OURS.as_uri()}")
    return JavaCommand(arguments, decision)


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
