"""The settings file: YAML, TOML or JSON, read and checked as a whole, with every mistake found in one pass.

It has the switches that can be turned while a process runs, and the sinks: as a list, or in the form of the standard
library's `logging.config.dictConfig` (https://docs.python.org/3/library/logging.config.html), whose own configurator
makes the handlers. The section ``ts_otel_logging`` of a model's ``model-config.yaml`` has some of the switches.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import logging
import os
import re
import sys
import threading
import time
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Callable, Final, NamedTuple, Optional

from ts_otel_logging import _config
from ts_otel_logging._diagnostics import shielded
from ts_otel_logging._redaction import ITEM_ACCEPTED, check_item, split_items

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MODEL_SECTION: Final = "ts_otel_logging"
_MAX_BYTES: Final = 1_048_576
_CHECK_SECONDS: Final = 2.0

OUR_SINKS: Final = ("TimestampedFileHandler", "SyslogHandler", "LatencyHandler")
_OUR_SINKS_MODULE: Final = "ts_otel_logging.sinks"
SINK_ACCEPTED: Final = f"{', '.join(OUR_SINKS)}, or package.module.Class of a logging.Handler"
ANOTHER_PLACE_ACCEPTED: Final = "a handler for another place: every event is on the console already"


class FileProblem(NamedTuple):
    """Something in a file that cannot be used.

    Attributes:
        file: The path as it was given.
        key: Where in the file: the keys with dots between them, or ``line <n>`` where it cannot be parsed.
        value: What stands there, or what is wrong with it.
        accepted: What is accepted there.
    """

    file: str
    key: str
    value: str
    accepted: str


@dataclass(frozen=True)
class Switches:
    """What can be changed while a process runs; None is what a place does not say.

    Attributes:
        enabled: Whether anything of ours is on.
        traces: Whether loads and requests become spans, and spans are exported.
        otlp_logs: Whether events are exported as OTLP log records.
        level: The level of the outputs.
        levels: Levels of loggers by name.
        format: The name of a shape.
        redact: What is masked besides the built-in list.
    """

    enabled: Optional[bool] = None
    traces: Optional[bool] = None
    otlp_logs: Optional[bool] = None
    level: Optional[int] = None
    levels: Mapping[str, int] = field(default_factory=dict)
    format: Optional[str] = None
    redact: tuple[str, ...] = ()

    def over(self, below: Switches) -> Switches:
        """Return what holds when these stand above others: loggers each by itself, and nothing is masked less."""
        said = {item.name: value for item in fields(self) for value in [getattr(self, item.name)] if value is not None}
        said["levels"] = {**below.levels, **self.levels}
        said["redact"] = tuple(dict.fromkeys((*below.redact, *self.redact)))
        return replace(below, **said)


class Sink(NamedTuple):
    """A sink as the file has it.

    Attributes:
        name: The handler's name.
        key: Where it stands in the file.
        config: Its section in the form of `logging.config.dictConfig`, paths absolute; without ``level``.
        level: Its level.
    """

    name: str
    key: str
    config: Mapping[str, Any]
    level: int = logging.NOTSET


class Routes(NamedTuple):
    """Which loggers' records reach which handlers, where the file says so.

    Attributes:
        handlers: Names of handlers by logger; the root's name is empty.
        stops: Loggers that hand nothing on to their ancestors' handlers.
    """

    handlers: Mapping[str, tuple[str, ...]]
    stops: frozenset[str]

    def reaches(self, logger: str, sink: str) -> bool:
        """Return whether a logger's records reach a sink."""
        name = logger
        while True:
            if sink in self.handlers.get(name, ()):
                return True
            if not name or name in self.stops:
                return False
            name = name.rpartition(".")[0]


@dataclass(frozen=True)
class SettingsFile:
    """What a settings file says.

    Attributes:
        path: Its path.
        digest: Of its content; empty when it could not be read.
        is_readable: Whether it could be read and parsed.
        switches: The switches that it has.
        sinks: Its sinks, as far as they can be made.
        routes: Which loggers' records reach them; None is all.
        parts: ``formatters`` and ``filters`` of the form of `logging.config.dictConfig`.
        problems: What cannot be used.
    """

    path: str = ""
    digest: str = ""
    is_readable: bool = True
    switches: Switches = field(default_factory=Switches)
    sinks: tuple[Sink, ...] = ()
    routes: Optional[Routes] = None
    parts: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[FileProblem, ...] = ()


def read_settings_file(path: str, folder: str) -> SettingsFile:
    """Read and check a settings file. Never raises.

    Args:
        path: The file; ``.toml`` and ``.json`` are what their names say, any other is YAML, of which JSON is a part.
        folder: What relative paths in it start from.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        problem = FileProblem(path, "", error.strerror or str(error), "the path of a readable file")
        return SettingsFile(path, is_readable=False, problems=(problem,))
    digest = hashlib.sha256(content).hexdigest()
    try:
        document, repeated = _parse(path, content)
    except _Unreadable as error:
        return SettingsFile(path, digest, is_readable=False, problems=(error.problem,))
    reader = _Reader(path, folder)
    switches = reader.switches(document)
    sinks = reader.sinks(document.get("handlers"))
    routes = reader.routes({sink.name for sink in sinks})
    parts = {name: document[name] for name in ("formatters", "filters") if isinstance(document.get(name), dict)}
    problems = (*repeated, *reader.problems)
    return SettingsFile(path, digest, switches=switches, sinks=sinks, routes=routes, parts=parts, problems=problems)


def read_model_section(section: Any, file: str) -> tuple[Switches, tuple[FileProblem, ...]]:
    """Check the section ``ts_otel_logging`` of a model's configuration.

    Args:
        section: What stands there.
        file: The path of the configuration.

    Returns:
        The switches, and what cannot be used.
    """
    reader = _Reader(file, "", MODEL_SECTION)
    if not isinstance(section, dict):
        reader.refuse(MODEL_SECTION, section, f"a mapping with {', '.join(_MODEL_KEYS)}")
        return Switches(), tuple(reader.problems)
    return reader.model_switches(section), tuple(reader.problems)


def unreachable_sinks(file: SettingsFile) -> list[FileProblem]:
    """Return the sinks whose file, host or package is not there now, as far as two seconds show it.

    They are made all the same: a folder or a host may come later, a package with a model. Of files and hosts only those
    of our own kinds of sinks are looked at.
    """
    found: dict[str, FileProblem] = {}

    def check(sink: Sink) -> None:
        handler = _made(sink.config)
        try:
            reason = handler.check()
            key = "address" if "address" in sink.config else "filename"
            if reason is not None:
                value = sink.config.get(key)
                accepted = f"{_REACHABLE[key]}; {reason}"
                found[sink.key] = FileProblem(file.path, f"{sink.key}.{key}", _shown(value), accepted)
        finally:
            handler.close()

    # There is no other time limit for the system's resolver, nor for a folder on another machine.
    threads = [
        threading.Thread(target=shielded("check of a sink")(check), args=(sink,), daemon=True)
        for sink in file.sinks
        if str(sink.config.get("class", "")).startswith(_OUR_SINKS_MODULE)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + _CHECK_SECONDS
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0.0))
    for sink in file.sinks:
        kind = str(sink.config.get("class") or sink.config.get("()"))
        if "://" not in kind and not _origin(kind):
            package = kind.partition(".")[0]
            accepted = f"{SINK_ACCEPTED}; there is no {package} here, unless a model's archive brings it"
            found[sink.key] = FileProblem(file.path, sink.key, kind, accepted)
    return [found[sink.key] for sink in file.sinks if sink.key in found]


_REACHABLE: Final = {
    "address": "a host that has an address, or a Unix socket that is there",
    "filename": "a file that can be written to",
}


def _made(config: Mapping[str, Any]) -> Any:
    """Make a sink of ours as it will be; nothing is opened by that."""
    handler: Any = resolved(config["class"])
    return handler(**{name: value for name, value in config.items() if name not in ("class", *_COMMON_ARGUMENTS)})


class _Unreadable(Exception):  # noqa: N818 - carries a problem
    def __init__(self, problem: FileProblem) -> None:
        super().__init__(problem.value)
        self.problem = problem


def _parse(path: str, content: bytes) -> tuple[dict[str, Any], list[FileProblem]]:
    """Return the document, and the keys that stand twice in one mapping."""
    if len(content) > _MAX_BYTES:
        raise _Unreadable(FileProblem(path, "", f"more than {_MAX_BYTES} bytes", f"a file of at most {_MAX_BYTES}"))
    language = {".toml": "TOML", ".json": "JSON"}.get(os.path.splitext(path)[1].lower(), "YAML")
    repeated: list[tuple[int, str]] = []
    try:
        text = content.decode("utf-8-sig")
        document = _parse_yaml(text, repeated) if language == "YAML" else _PARSERS[language](text)
    except Exception as error:  # noqa: BLE001 - parsers raise errors of their own, and RecursionError
        message = " ".join(str(error).split())
        key = f"line {line}" if (line := _line_of(error)) else ""
        raise _Unreadable(FileProblem(path, key, message or type(error).__name__, f"well-formed {language}")) from None
    if document is None:
        return {}, []
    if not isinstance(document, dict):
        raise _Unreadable(FileProblem(path, "", type(document).__name__, f"a mapping with {', '.join(_FILE_KEYS)}"))
    problems = [FileProblem(path, f"line {line}", key, "each key once; the last one holds") for line, key in repeated]
    return {str(key): value for key, value in document.items()}, problems


def _parse_yaml(text: str, repeated: list[tuple[int, str]]) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
            # YAML 1.2 section 3.2.1.1: keys are unique. PyYAML takes the last one without a word.
            node: yaml.MappingNode = super().compose_mapping_node(anchor)
            seen: set[str] = set()
            for key, _ in node.value:
                # Several merges are no repetition.
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    if key.value in seen:
                        repeated.append((key.start_mark.line + 1, key.value))
                    seen.add(key.value)
            return node

    return yaml.load(text, Loader)  # noqa: S506 - a safe one


def _parse_toml(text: str) -> Any:
    parser: Any = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    return parser.loads(text)


_PARSERS: Final[dict[str, Callable[[str], Any]]] = {"TOML": _parse_toml, "JSON": json.loads}


def _line_of(error: Exception) -> Optional[int]:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return int(mark.line) + 1
    line = getattr(error, "lineno", None)
    if line is None:
        found = re.search(r"at line (\d+)", str(error))
        line = found and int(found.group(1))
    return line


def _boolean(value: Any) -> bool:
    meaning = _config.parse_switch(value) if isinstance(value, str) and value.strip() else value
    if not isinstance(meaning, bool):
        raise ValueError(value)  # noqa: TRY004 - a wrong value of a setting
    return meaning


def _level(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(value)  # noqa: TRY004 - a wrong value of a setting
    return _config.parse_level(str(value))


def _shape(value: Any) -> str:
    return str(_config.row_of("FORMAT").parse(str(value)))


class _Key(NamedTuple):
    parse: Callable[[Any], Any]
    accepted: str


_SWITCH_KEYS: Final = {
    "enabled": _Key(_boolean, "true, false"),
    "traces": _Key(_boolean, "true, false"),
    "otlp_logs": _Key(_boolean, "true, false"),
    "level": _Key(_level, _config.LEVEL_ACCEPTED),
    "format": _Key(_shape, _config.row_of("FORMAT").accepted),
}
_DICT_CONFIG_KEYS: Final = (
    "version", "formatters", "filters", "loggers", "root", "disable_existing_loggers", "incremental",
)  # fmt: skip
_FILE_SWITCHES: Final = ("enabled", "traces", "otlp_logs", "level")
_FILE_KEYS: Final = (*_FILE_SWITCHES, "levels", "redact", "handlers", *_DICT_CONFIG_KEYS)
_MODEL_SWITCHES: Final = ("level", "format")
_MODEL_KEYS: Final = (*_MODEL_SWITCHES, "levels", "redact")
_LOGGER_KEYS: Final = ("level", "handlers", "propagate")
# What every handler may have in the standard library's form; the dot is for attributes.
_COMMON_ARGUMENTS: Final = ("formatter", "filters", ".")
_PATH_ARGUMENTS: Final = ("filename", "summary_filename", "ca_file", "cert_file", "key_file")
_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class _Reader:
    """Reads one document; what cannot be used becomes a problem and the rest goes on."""

    def __init__(self, path: str, folder: str, section: str = "") -> None:
        self._path = path
        self._folder = folder
        self._section = section
        self.problems: list[FileProblem] = []
        self._handlers: dict[str, tuple[str, ...]] = {}
        self._stops: set[str] = set()
        self._has_routes = False
        self._document: Mapping[str, Any] = {}

    def refuse(self, key: str, value: Any, accepted: str) -> None:
        self.problems.append(FileProblem(self._path, key, _shown(value), accepted))

    def _key(self, name: str) -> str:
        return f"{self._section}.{name}" if self._section else name

    def switches(self, document: Mapping[str, Any]) -> Switches:
        self._document = document
        self._check_keys(document, _FILE_KEYS)
        root_level, logger_levels = self._logger_sections()
        level, levels, rest = self._common(document, _FILE_SWITCHES)
        self._check_dict_config()
        return Switches(level=root_level if level is None else level, levels={**logger_levels, **levels}, **rest)

    def model_switches(self, section: Mapping[str, Any]) -> Switches:
        self._check_keys(section, _MODEL_KEYS)
        level, levels, rest = self._common(section, _MODEL_SWITCHES)
        return Switches(level=level, levels=levels, **rest)

    def _common(
        self, section: Mapping[str, Any], names: Iterable[str]
    ) -> tuple[Optional[int], dict[str, int], dict[str, Any]]:
        found: dict[str, Any] = {}
        for name in names:
            if section.get(name) is not None:
                found[name] = self._parsed(self._key(name), section[name], _SWITCH_KEYS[name])
        found["redact"] = self._redact(section.get("redact"))
        return found.pop("level", None), self._levels(section.get("levels")), found

    def _check_keys(self, section: Mapping[str, Any], accepted: Iterable[str]) -> None:
        for key, value in section.items():
            if key not in accepted:
                self.refuse(self._key(str(key)), value, f"no such key; there are {', '.join(accepted)}")

    def _parsed(self, key: str, value: Any, row: _Key) -> Any:
        try:
            return row.parse(value)
        except (ValueError, TypeError):
            self.refuse(key, value, row.accepted)
            return None

    def _levels(self, value: Any) -> dict[str, int]:
        if value is None:
            return {}
        key = self._key("levels")
        if not isinstance(value, dict):
            self.refuse(key, value, "a mapping of loggers to levels")
            return {}
        levels = {
            str(logger): self._parsed(f"{key}.{logger}", level, _Key(_level, _config.LEVEL_ACCEPTED))
            for logger, level in value.items()
            if level is not None
        }
        return {logger: level for logger, level in levels.items() if level is not None}

    def _redact(self, value: Any) -> tuple[str, ...]:
        if value is None:
            return ()
        key = self._key("redact")
        items = split_items(value) if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            self.refuse(key, value, f"a list, each {ITEM_ACCEPTED}")
            return ()
        wrong = [check_item(item) if isinstance(item, str) else ITEM_ACCEPTED for item in items]
        for item, accepted in zip(items, wrong):
            if accepted is not None:
                self.refuse(key, item, accepted)
        return tuple(item for item, accepted in zip(items, wrong) if accepted is None)

    # Sinks

    def sinks(self, section: Any) -> tuple[Sink, ...]:
        if section is None:
            return ()
        if isinstance(section, dict):
            entries = [(f"handlers.{name}", str(name), config) for name, config in section.items()]
        elif isinstance(section, list):
            entries = [self._entry(index, config) for index, config in enumerate(section)]
        else:
            self.refuse("handlers", section, "a list of handlers, or a mapping of names to handlers")
            return ()
        sinks: dict[str, Sink] = {}
        for key, name, config in entries:
            sink = self._sink(key, name, config)
            if sink is not None and name in sinks:
                self.refuse(key, name, "a name that no other handler has")
            elif sink is not None:
                sinks[name] = sink
        return tuple(sinks.values())

    @staticmethod
    def _entry(index: int, config: Any) -> tuple[str, str, Any]:
        """Bring an item of the list into the form of `logging.config.dictConfig`."""
        key = f"handlers[{index}]"
        if not isinstance(config, dict):
            return key, "", config
        config = dict(config)
        name = str(config.pop("handler", None) or config.get("type") or key)
        return f"handlers.{name}", name, config

    def _sink(self, key: str, name: str, config: Any) -> Optional[Sink]:
        if not isinstance(config, dict):
            self.refuse(key, config, "a mapping with handler, type and the handler's arguments")
            return None
        config = {str(argument): value for argument, value in config.items()}
        # `class` is the standard library's word.
        kind_key = next((word for word in ("class", "()") if word in config), "type")
        kind = config.pop(kind_key, None)
        if not isinstance(kind, str) or (kind not in OUR_SINKS and "." not in kind):
            self.refuse(f"{key}.{kind_key}", kind, SINK_ACCEPTED)
            return None
        level = logging.NOTSET
        if config.get("level") is not None:
            level = self._parsed(f"{key}.level", config["level"], _Key(_level, _config.LEVEL_ACCEPTED))
        config.pop("level", None)
        factory = f"{_OUR_SINKS_MODULE}.{kind}" if kind in OUR_SINKS else kind
        before = len(self.problems)
        self._check_references(key, config)
        config = {("()" if kind_key == "()" else "class"): factory, **self._absolute(config)}
        # A module of the user's is imported by the worker alone, which finds the model's own modules too.
        if kind_key != "()" and (factory.startswith(_OUR_SINKS_MODULE) or _is_of_standard_library(factory)):
            self._check_arguments(key, factory, config)
        if level is None or len(self.problems) > before:
            return None
        return Sink(name, key, config, level)

    def _check_references(self, key: str, config: Mapping[str, Any]) -> None:
        formatter = config.get("formatter")
        formatters = self._names("formatters")
        if formatter is not None and formatter not in formatters:
            self.refuse(f"{key}.formatter", formatter, _one_of("formatters", formatters))
        filters = self._names("filters")
        given = config.get("filters") or []
        if not isinstance(given, list):
            self.refuse(f"{key}.filters", given, f"a list, each {_one_of('filters', filters)}")
            return
        for name in given:
            if isinstance(name, str) and name not in filters:
                self.refuse(f"{key}.filters", name, _one_of("filters", filters))

    def _names(self, section: str) -> list[Any]:
        # A list: what is looked for in it may be no name at all.
        found = self._document.get(section)
        return list(found) if isinstance(found, dict) else []

    def _check_arguments(self, key: str, factory: str, config: Mapping[str, Any]) -> None:
        handler = resolved(factory)
        if not isinstance(handler, type) or not issubclass(handler, logging.Handler):
            self.refuse(f"{key}.type", factory, SINK_ACCEPTED)
            return
        stream = config.get("stream") or "ext://sys.stderr"
        if handler is logging.StreamHandler and str(stream).startswith("ext://sys."):
            self.refuse(f"{key}.type", factory, ANOTHER_PLACE_ACCEPTED)
            return
        before = len(self.problems)
        for name, accepted in wrong_arguments(handler, config):
            self.refuse(f"{key}.{name}", config.get(name, ""), accepted)
        if factory.startswith(_OUR_SINKS_MODULE) and len(self.problems) == before:
            self._check_values(key, config)
        elif isinstance(config.get("filename"), str):
            wrong = _unwritable(config["filename"])
            if wrong is not None:
                self.refuse(f"{key}.filename", config["filename"], f"{_REACHABLE['filename']}; {wrong}")

    def _check_values(self, key: str, config: Mapping[str, Any]) -> None:
        try:
            _made(config).close()
        except (ValueError, TypeError) as error:
            # <argument>: accepted is <this>, not <value>
            subject, _, reason = str(error).partition(": ")
            name = subject.partition(" ")[0]
            if name in config:
                accepted = reason.removeprefix("accepted is ").removesuffix(f", not {config[name]!r}")
                self.refuse(f"{key}.{name}", config[name], accepted)
            else:
                self.refuse(key, config["class"], str(error))

    def _absolute(self, config: dict[str, Any]) -> dict[str, Any]:
        """Let paths start where TorchServe was started: a worker's own folder is a model's."""
        paths = {
            name: os.path.join(self._folder, config[name])
            for name in _PATH_ARGUMENTS
            if isinstance(config.get(name), str)
        }
        return {**config, **paths}

    # The form of logging.config.dictConfig

    def _check_dict_config(self) -> None:
        for key, accepted in (("version", 1), ("incremental", False), ("disable_existing_loggers", False)):
            if key in self._document and self._document[key] != accepted:
                told = json.dumps(accepted)
                self.refuse(key, self._document[key], f"{told}; no logger is ever disabled" if key[0] == "d" else told)
        for key in ("formatters", "filters"):
            if not isinstance(self._document.get(key) or {}, dict):
                self.refuse(key, self._document[key], "a mapping of names")

    def _logger_sections(self) -> tuple[Optional[int], dict[str, int]]:
        """Return the levels of ``root`` and ``loggers``; note their handlers."""
        loggers = self._document.get("loggers") or {}
        if not isinstance(loggers, dict):
            self.refuse("loggers", loggers, "a mapping of names")
            loggers = {}
        root = self._document.get("root")
        root_level = self._logger("root", "", root) if root is not None else None
        levels = {str(name): self._logger(f"loggers.{name}", str(name), config) for name, config in loggers.items()}
        return root_level, {name: level for name, level in levels.items() if level is not None}

    def _logger(self, key: str, name: str, config: Any) -> Optional[int]:
        if not isinstance(config, dict):
            self.refuse(key, config, f"a mapping with {', '.join(_LOGGER_KEYS)}")
            return None
        for word, value in config.items():
            if word not in _LOGGER_KEYS:
                self.refuse(f"{key}.{word}", value, f"no such key; there are {', '.join(_LOGGER_KEYS)}")
        handlers = config.get("handlers")
        if isinstance(handlers, list):
            self._has_routes = True
            self._handlers[name] = tuple(map(str, handlers))
        elif handlers is not None:
            self.refuse(f"{key}.handlers", handlers, "a list of names in handlers")
        if config.get("propagate") is False:
            self._stops.add(name)
        if config.get("level") is None:
            return None
        level: Optional[int] = self._parsed(f"{key}.level", config["level"], _Key(_level, _config.LEVEL_ACCEPTED))
        return level

    def routes(self, sinks: set[str]) -> Optional[Routes]:
        """Return which loggers' records reach which sinks; None where neither root nor a logger names one."""
        section = self._document.get("handlers")
        known = sinks | (set(map(str, section)) if isinstance(section, dict) else set())
        for logger, names in self._handlers.items():
            key = f"loggers.{logger}.handlers" if logger else "root.handlers"
            for name in names:
                if name not in known:
                    self.refuse(key, name, _one_of("handlers", sorted(known)))
        return Routes(self._handlers, frozenset(self._stops)) if self._has_routes else None


def resolved(factory: str) -> Optional[Any]:
    """Return what a dotted name stands for, imported; None if there is no such thing."""
    from logging.config import BaseConfigurator

    try:
        return BaseConfigurator({}).resolve(factory)  # type: ignore[no-untyped-call, unused-ignore]
    except (ValueError, AttributeError):
        return None


def wrong_arguments(factory: Any, config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the arguments that a class does not have, and those that it needs and a section does not give.

    Args:
        factory: The class, or what makes its objects.
        config: The section, in the form of `logging.config.dictConfig`.

    Returns:
        Each argument with what is accepted.
    """
    try:
        parameters = inspect.signature(factory).parameters
    except (ValueError, TypeError):
        # Some classes in C tell nothing.
        return []
    wrong = []
    given = {name for name in config if name not in ("class", "()", *_COMMON_ARGUMENTS)}
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        names = ", ".join(("level", "formatter", "filters", *parameters))
        wrong += [(name, f"no such argument; there are {names}") for name in sorted(given - set(parameters))]
    for name, parameter in parameters.items():
        is_required = parameter.default is parameter.empty and parameter.kind not in _VARIADIC
        if is_required and name not in given:
            wrong.append((name, f"a value: {getattr(factory, '__name__', 'it')} needs it"))
    return wrong


def _is_of_standard_library(factory: str) -> bool:
    """Return whether importing a class does what is known: neither the user's module, nor one that is installed."""
    origin = _origin(factory)
    inside = os.path.dirname(os.__file__) + os.sep
    return origin in ("built-in", "frozen") or (origin.startswith(inside) and "-packages" + os.sep not in origin)


def _origin(factory: str) -> str:
    """Return where the outermost package of a class comes from, without importing it; empty if it is not found."""
    try:
        spec = importlib.util.find_spec(factory.partition(".")[0])
    except (ImportError, ValueError, AttributeError):
        return ""
    return "" if spec is None else spec.origin or "a folder"


def _shown(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value, default=str))[:200]


def _one_of(section: str, names: Iterable[Any]) -> str:
    return f"a name in {section}: {', '.join(map(str, names)) or 'there are none'}"


def _unwritable(path: str) -> Optional[str]:
    folder = os.path.dirname(path)
    if os.path.isdir(path):
        return f"{path} is a folder"
    if not os.path.isdir(folder):
        return f"there is no folder {folder}"
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        return "Permission denied"
    return None
