"""Settings as rows of data: each variable, what is accepted, what it means. Every mistake is found in one pass.

Only this module interprets environment variables (`_boot` looks at the switch before it may import anything).
OpenTelemetry's own variables keep the meaning their specification gives them
(https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/, .../protocol/exporter/); the rows
here only check them, because a value that makes the SDK raise must cost that setting and nothing else.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Final, NamedTuple, Optional
from urllib.parse import unquote, urlsplit

from ts_otel_logging._redaction import ITEM_ACCEPTED, check_item, split_items

if TYPE_CHECKING:
    from collections.abc import Mapping

SWITCH: Final = "TS_OTEL_LOGGING"
PREFIX: Final = SWITCH + "_"
ON: Final = ("1", "true", "on", "yes")
OFF: Final = ("", "0", "false", "off", "no")

SHAPE_NAMES: Final = ("structlog", "otel", "ecs", "gcp", "datadog", "console")
# Not a setting: what the launcher, which may have a terminal, tells the JVM and the workers, which have pipes.
CONSOLE_COLORS: Final = f"_{PREFIX}COLORS"
RESPONSE_HEADER_NAMES: Final = ("server-timing", "traceresponse", "traceparent")
TRUST_MODES: Final = ("parent", "link", "ignore")
FRONTEND_MODES: Final = ("json", "json+files", "json-only", "off")
LEVEL_ACCEPTED: Final = "a level's name (DEBUG, INFO, WARNING, ERROR, CRITICAL) or number"


class Problem(NamedTuple):
    """A setting that cannot be used, or an item of it; its default, or the other items, hold instead."""

    variable: str
    value: str
    accepted: str


class WrongItemsError(ValueError):
    """Some items of a list cannot be used; the others hold.

    Args:
        value: What holds.
        items: Each item that cannot be used, with what is accepted in its place.
    """

    def __init__(self, value: Any, items: Mapping[str, str]) -> None:
        super().__init__(", ".join(items))
        self.value = value
        self.items = items


class Setting(NamedTuple):
    """One variable.

    Attributes:
        variable: Its name.
        parse: Returns the value of its text, or raises ValueError.
        accepted: What is accepted, for people.
        default: The value when it is unset.
        is_path: Whether a relative value means a path from where TorchServe was started.
    """

    variable: str
    parse: Callable[[str], Any]
    accepted: str
    default: Any = None
    is_path: bool = False


def parse_switch(text: Optional[str]) -> Optional[bool]:
    """Return whether the switch's text means on or off, or None if it means neither."""
    text = (text or "").strip().lower()
    return True if text in ON else False if text in OFF else None


def _boolean(text: str) -> bool:
    value = parse_switch(text)
    if value is None:
        raise ValueError(text)
    return value


def _one_of(*names: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.strip().lower() not in names:
            raise ValueError(text)
        return text.strip().lower()

    return parse


def _subset_of(*names: str) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        values = _names_in(text.lower())
        if not set(values) <= set(names):
            raise ValueError(text)
        return values

    return parse


def _names_in(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _header_names(text: str) -> tuple[str, ...]:
    names = _names_in(text.lower())
    wrong = {name: _HEADER_NAME_ACCEPTED for name in names if not re.fullmatch(_HEADER_NAME, name)}
    usable = tuple(dict.fromkeys(name for name in names if name not in wrong))
    if wrong:
        raise WrongItemsError(usable, wrong)
    return usable


# https://www.rfc-editor.org/rfc/rfc9110#name-tokens
_HEADER_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEADER_NAME_ACCEPTED: Final = "a request header's name"


def _otlp_headers(text: str) -> str:
    items = [item.strip() for item in text.split(",") if item.strip()]
    usable = [item for item in items if _is_otlp_header(item)]
    if len(usable) == len(items):
        return text.strip()
    # By its place alone: all of it may be the secret.
    wrong = ", ".join(str(place) for place, item in enumerate(items, 1) if item not in usable)
    raise WrongItemsError(",".join(usable) or None, {"***": f"{_OTLP_HEADERS_ACCEPTED}; not so is item {wrong}"})


def _is_otlp_header(item: str) -> bool:
    # What OpenTelemetry for Python takes (`opentelemetry.util.re.parse_env_headers(liberal=True)`): of everything else
    # it prints the text. And what HTTP can send: https://www.rfc-editor.org/rfc/rfc9110#section-5.5
    match = re.fullmatch(rf"({_HEADER_NAME})[ \t]*=([ \t]*[ !#-+\--:<-\[\]-~]*)", item)
    return bool(
        match and re.fullmatch(_HEADER_NAME, unquote(match[1])) and not re.search(r"[\0-\x1f\x7f]", unquote(match[2]))
    )


_OTLP_HEADERS_ACCEPTED: Final = "name=value,name=value, each value URL-encoded"


def _redact_items(text: str) -> tuple[str, ...]:
    items = split_items(text)
    wrong = {item: problem for item in items for problem in [check_item(item)] if problem is not None}
    usable = tuple(item for item in items if item not in wrong)
    if wrong:
        raise WrongItemsError(usable, wrong)
    return usable


def _integer(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise ValueError(text)
        return value

    return parse


def _number_from_zero(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return value


def _positive_number(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def _export_seconds(text: str) -> float:
    value = _positive_number(text)
    if value > _MAX_EXPORT_SECONDS:
        raise ValueError(text)
    return value


# Elsewhere the number is one of milliseconds: 10000 of them would let a receiver that hangs hold all export for hours.
_MAX_EXPORT_SECONDS: Final = 600


def _ratio(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError(text)
    return value


def parse_level(text: str) -> int:
    """Return a level by its name, in any case, or its number.

    Raises:
        ValueError: It is neither.
    """
    name = text.strip()
    level: Any = int(name) if name.isdigit() else logging.getLevelName(name.upper())
    if not isinstance(level, int):
        raise ValueError(text)  # noqa: TRY004 - a wrong value of a setting, whatever getLevelName made of it
    return level


def _levels(text: str) -> dict[str, int]:
    levels = {}
    for item in _names_in(text):
        logger, separator, level = item.partition("=")
        if not separator:
            raise ValueError(text)
        levels[logger.strip()] = parse_level(level)
    return levels


def _existing_file(text: str) -> str:
    with open(text, "rb"):
        return text


def _endpoint(text: str) -> str:
    parts = urlsplit(text.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", text.strip()):
        # gRPC's own form, which its exporter takes as it is
        if re.fullmatch(r"[\w.-]+:\d{1,5}", text.strip()):
            return text.strip()
        raise ValueError(text)
    _ = parts.port  # raises ValueError when it is no port
    return text.strip()


def _object_path(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", text.strip()):
        raise ValueError(text)
    return text.strip()


def _registered(group: str, *builtin: str, is_list: bool = True) -> Callable[[str], str]:
    """Accept a comma-separated list of names, or one, that are built in or registered as an entry point."""

    def parse(text: str) -> str:
        names = [name.lower() if name.lower() in builtin else name for name in _names_in(text)]
        if not names or (len(names) > 1 and not is_list):
            raise ValueError(text)
        unknown = set(names) - set(builtin)
        if unknown:
            from opentelemetry.util._importlib_metadata import entry_points

            unknown -= {entry_point.name for entry_point in entry_points(group=group)}
        if unknown:
            raise ValueError(text)
        return ",".join(names)

    return parse


_EXPORTERS: Final = ("otlp", "console", "none", "otlp_json_file")
_EXPORTERS_ACCEPTED: Final = (
    "a comma-separated list of otlp, console, none, otlp_json_file or a name registered under the entry point group {}"
)
_SAMPLERS: Final = (
    "always_on", "always_off", "traceidratio",
    "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio",
)  # fmt: skip

OUR_SETTINGS: Final = (
    Setting(SWITCH, _boolean, "1, true, on, yes; or 0, false, off, no, empty", default=False),
    Setting(f"{PREFIX}FORMAT", _one_of(*SHAPE_NAMES), ", ".join(SHAPE_NAMES), default="structlog"),
    Setting(f"{PREFIX}LEVEL", parse_level, LEVEL_ACCEPTED, logging.INFO),
    Setting(f"{PREFIX}LEVELS", _levels, "logger=LEVEL,logger=LEVEL", default={}),
    Setting(f"{PREFIX}CONFIG", str.strip, "the path of a YAML, TOML or JSON file", is_path=True),
    Setting(f"{PREFIX}PROCESSORS", _object_path, "package.module:name of a list of structlog processors"),
    Setting(f"{PREFIX}CAPTURE", _boolean, "1, true, on, yes; or 0, false, off, no", default=True),
    Setting(f"{PREFIX}FRONTEND", _one_of(*FRONTEND_MODES), ", ".join(FRONTEND_MODES), default="json"),
    Setting(
        f"{PREFIX}RESPONSE_HEADERS",
        _subset_of(*RESPONSE_HEADER_NAMES),
        f"a comma-separated list of {', '.join(RESPONSE_HEADER_NAMES)}",
        default=(),
    ),
    Setting(f"{PREFIX}HEADERS", _header_names, f"a comma-separated list, each {_HEADER_NAME_ACCEPTED}", default=()),
    Setting(f"{PREFIX}TRUST", _one_of(*TRUST_MODES), ", ".join(TRUST_MODES), default="parent"),
    Setting(f"{PREFIX}SAMPLE_ERRORS", _number_from_zero, "a number of requests a second from 0", default=0.0),
    Setting(f"{PREFIX}MAX_RECORD_BYTES", _integer(512), "a whole number of bytes from 512", default=16_000),
    Setting(f"{PREFIX}QUEUE_BYTES", _integer(65_536), "a whole number of bytes from 65536", default=4_194_304),
    Setting(f"{PREFIX}REDACT", _redact_items, f"a comma-separated list, each {ITEM_ACCEPTED}", default=()),
    Setting(
        f"{PREFIX}LATENCY_FIELDS",
        _names_in,
        "a comma-separated list of names of extra fields",
        default=("inference_latency",),
    ),
    Setting(f"{PREFIX}FILE_DIR", str, "a folder", is_path=True),
)

NOT_YET: Final = frozenset(PREFIX + name for name in ("AGENT",))
"""Settings that are planned; setting one is told, so that nobody believes it holds."""


def row_of(name: str) -> Setting:
    """Return the row of one of our settings by its name without the prefix."""
    return next(row for row in OUR_SETTINGS if row.variable == PREFIX + name)


_SIGNAL_PREFIXES: Final = ("", "TRACES_", "LOGS_", "METRICS_")


def _per_signal(
    suffix: str, parse: Callable[[str], Any], accepted: str, *, is_path: bool = False
) -> tuple[Setting, ...]:
    return tuple(
        Setting(f"OTEL_EXPORTER_OTLP_{signal}{suffix}", parse, accepted, is_path=is_path) for signal in _SIGNAL_PREFIXES
    )


_A_NUMBER: Final = "a whole number from 1"
_A_LIMIT: Final = "a whole number from 0"

OTEL_SETTINGS: Final = (
    Setting("OTEL_SDK_DISABLED", _one_of("true", "false"), "true, false"),
    Setting("OTEL_CONFIG_FILE", _existing_file, "the path of a readable file", is_path=True),
    *(
        Setting(
            f"OTEL_{signal.upper()}_EXPORTER",
            _registered(f"opentelemetry_{signal}_exporter", *_EXPORTERS),
            _EXPORTERS_ACCEPTED.format(f"opentelemetry_{signal}_exporter"),
        )
        for signal in ("traces", "logs", "metrics")
    ),
    *_per_signal("ENDPOINT", _endpoint, "a URL like http://collector:4318; for grpc also host:port"),
    *_per_signal("PROTOCOL", _one_of("http/protobuf", "grpc"), "http/protobuf, grpc"),
    *_per_signal("COMPRESSION", _one_of("none", "gzip", "deflate"), "none, gzip, deflate"),
    *_per_signal(
        "TIMEOUT",
        _export_seconds,
        f"a number of seconds above 0, at most {_MAX_EXPORT_SECONDS}: OpenTelemetry for Python reads seconds",
    ),
    *_per_signal("HEADERS", _otlp_headers, _OTLP_HEADERS_ACCEPTED),
    *_per_signal("CERTIFICATE", _existing_file, "the path of a readable file", is_path=True),
    *_per_signal("CLIENT_CERTIFICATE", _existing_file, "the path of a readable file", is_path=True),
    *_per_signal("CLIENT_KEY", _existing_file, "the path of a readable file", is_path=True),
    Setting(
        "OTEL_TRACES_SAMPLER",
        _registered("opentelemetry_traces_sampler", *_SAMPLERS, is_list=False),
        f"{', '.join(_SAMPLERS)} or a name registered under the entry point group opentelemetry_traces_sampler",
    ),
    Setting(
        "OTEL_PROPAGATORS",
        _registered("opentelemetry_propagator", "none"),
        "a comma-separated list of tracecontext, baggage, none or names of installed propagators",
    ),
    Setting("OTEL_METRIC_EXPORT_INTERVAL", _positive_number, "a number of milliseconds above 0"),
    Setting("OTEL_METRIC_EXPORT_TIMEOUT", _positive_number, "a number of milliseconds above 0"),
    Setting(
        "OTEL_METRICS_EXEMPLAR_FILTER",
        _one_of("always_on", "always_off", "trace_based"),
        "always_on, always_off, trace_based",
    ),
    Setting(
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        _one_of("cumulative", "delta", "lowmemory"),
        "cumulative, delta, lowmemory",
    ),
    *(
        Setting(f"OTEL_{lane}_{suffix}", _integer(1), _A_NUMBER)
        for lane in ("BSP", "BLRP")
        for suffix in ("SCHEDULE_DELAY", "EXPORT_TIMEOUT", "MAX_QUEUE_SIZE", "MAX_EXPORT_BATCH_SIZE")
    ),
    *(
        Setting(f"OTEL_{limit}", _integer(0), _A_LIMIT)
        for limit in (
            "ATTRIBUTE_COUNT_LIMIT",
            "ATTRIBUTE_VALUE_LENGTH_LIMIT",
            "SPAN_ATTRIBUTE_COUNT_LIMIT",
            "SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
            "SPAN_EVENT_COUNT_LIMIT",
            "SPAN_LINK_COUNT_LIMIT",
            "EVENT_ATTRIBUTE_COUNT_LIMIT",
            "LINK_ATTRIBUTE_COUNT_LIMIT",
            "LOGRECORD_ATTRIBUTE_COUNT_LIMIT",
            "LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        )
    ),
)

_SAMPLER_ARG: Final = Setting("OTEL_TRACES_SAMPLER_ARG", _ratio, "a number from 0 to 1")


@dataclass(frozen=True)
class Settings:
    """What holds, after every value was checked.

    Attributes:
        values: The value of each setting of ours.
        environ: The environment as the SDK may see it: the given one without the values that cannot be used, and with
            the others as they were understood (the SDK knows some names in lower case only).
        problems: What cannot be used.
    """

    values: Mapping[str, Any]
    environ: Mapping[str, str]
    problems: tuple[Problem, ...]
    origins: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        """Return the value of one of our settings by its name without the prefix."""
        return self.values[PREFIX + name]

    @property
    def file_dir(self) -> str:
        """The folder of `otlp_json_file`: absolute, if the launcher could make it so."""
        configured = self["FILE_DIR"]
        return str(configured) if configured else default_file_dir(self.environ)

    @property
    def exception_events(self) -> bool:
        """Whether an exception is an event of its span too: unless the user opted for log records alone."""
        return "logs" not in _names_in(self.environ.get("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", ""))


def default_file_dir(environ: Mapping[str, str]) -> str:
    """Return where `otlp_json_file` writes when no folder is set: beside TorchServe's own logs."""
    return os.path.join(environ.get("LOG_LOCATION") or "logs", "otlp")


def load(environ: Mapping[str, str]) -> Settings:
    """Check every setting.

    Args:
        environ: The environment.

    Returns:
        The settings, with defaults in place of what cannot be used.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    usable = dict(environ)
    problems: list[Problem] = []

    def check(setting: Setting) -> Any:
        text = environ.get(setting.variable, "")
        # An empty value is an unset one (OpenTelemetry specification, "Parsing empty value").
        if not text.strip():
            return setting.default
        value, wrong = _parsed(setting, text)
        problems.extend(wrong)
        if wrong:
            usable.pop(setting.variable, None)
        # Of a list some items may hold.
        if isinstance(value, str) and not (wrong and value is setting.default):
            usable[setting.variable] = value
        if value is not setting.default or not wrong:
            origins[setting.variable] = "environment"
        return value

    for setting in OUR_SETTINGS:
        values[setting.variable] = check(setting)
    for setting in OTEL_SETTINGS:
        check(setting)
    problems.extend(_endpoints_without_scheme(usable))
    problems.extend(_headers_not_for_grpc(usable))
    if usable.get("OTEL_TRACES_SAMPLER", "").endswith("traceidratio"):
        check(_SAMPLER_ARG)
    for problem in _unknown(environ):
        problems.append(problem)
        usable.pop(problem.variable)
    return Settings(values, usable, tuple(problems), origins)


def _unknown(environ: Mapping[str, str]) -> list[Problem]:
    known = {setting.variable for setting in OUR_SETTINGS}
    problems = []
    for variable in sorted(environ):
        if variable.startswith(PREFIX) and variable not in known and environ[variable].strip():
            accepted = (
                "nothing yet: this version does not have it"
                if variable in NOT_YET
                else f"no such setting; there are {', '.join(sorted(known))}"
            )
            problems.append(Problem(variable, environ[variable], accepted))
    return problems


def _parsed(setting: Setting, text: str) -> tuple[Any, list[Problem]]:
    """Return the value that holds, and what is wrong with the text."""
    try:
        return setting.parse(text), []
    except WrongItemsError as error:
        return error.value, [Problem(setting.variable, item, accepted) for item, accepted in error.items.items()]
    except (ValueError, OSError):
        return setting.default, [Problem(setting.variable, text, setting.accepted)]


def _endpoints_without_scheme(usable: dict[str, str]) -> list[Problem]:
    """Take out the endpoints that only gRPC understands where OTLP goes over HTTP."""
    over_grpc = _signals_over_grpc(usable)
    problems = []
    for signal in _SIGNAL_PREFIXES:
        variable = f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT"
        endpoint = usable.get(variable, "").strip()
        if endpoint and "://" not in endpoint and signal not in over_grpc:
            problems.append(Problem(variable, endpoint, "a URL like http://collector:4318; host:port is for grpc only"))
            del usable[variable]
    return problems


def _headers_not_for_grpc(usable: dict[str, str]) -> list[Problem]:
    """Take out the headers that gRPC refuses, with every batch and by their values, where OTLP goes over it."""
    problems = []
    for signal in _signals_over_grpc(usable):
        variable = f"OTEL_EXPORTER_OTLP_{signal}HEADERS"
        items = [item.strip() for item in usable.get(variable, "").split(",") if item.strip()]
        wrong = [item for item in items if not _is_grpc_header(item)]
        if wrong:
            names = ", ".join(item.partition("=")[0].strip() for item in wrong)
            problems.append(Problem(variable, "***", f"{_GRPC_HEADERS_ACCEPTED}; not so is {names}"))
            usable[variable] = ",".join(item for item in items if item not in wrong)
    return problems


def _is_grpc_header(item: str) -> bool:
    # https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, "Custom-Metadata". Text is no binary value.
    name, _, value = (unquote(part).strip() for part in item.partition("="))
    return bool(re.fullmatch(r"[0-9a-z_.-]+(?<!-bin)", name.lower()) and re.fullmatch(r"[ -~]*", value))


_GRPC_HEADERS_ACCEPTED: Final = "over grpc a name of letters, digits and _.- that does not end in -bin, an ASCII value"


def _signals_over_grpc(usable: Mapping[str, str]) -> list[str]:
    """Return the prefixes of the variables that gRPC reads."""

    def text(name: str) -> str:
        return usable.get(f"OTEL_EXPORTER_OTLP_{name}", "").strip()

    found = [signal for signal in _SIGNAL_PREFIXES if (text(f"{signal}PROTOCOL") or text("PROTOCOL")) == "grpc"]
    # The general ones are every signal's that has none of its own.
    return list(dict.fromkeys(["", *found])) if found else []


def all_problems(settings: Settings) -> list[Problem]:
    """Return the problems of the settings and that of the user's processors, if their module does not exist."""
    missing = check_processors(settings)
    return [*settings.problems, *([missing] if missing else [])]


def check_processors(settings: Settings) -> Optional[Problem]:
    """Return the problem with the user's processors, if their module can be found but not used, or not found.

    Without importing the module: the launcher checks, only the worker imports.
    """
    path = settings["PROCESSORS"]
    if path is None:
        return None
    import importlib.util

    variable = PREFIX + "PROCESSORS"
    accepted = row_of("PROCESSORS").accepted
    try:
        found = importlib.util.find_spec(path.partition(":")[0])
    except (ImportError, ValueError, AttributeError):
        found = None
    return None if found else Problem(variable, path, f"{accepted}; there is no such module")


def resource_attributes(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what the environment says that this process is, as the SDK reads it.

    OpenTelemetry specification, "Specifying resource information via an environment variable": percent-encoded values;
    ``OTEL_SERVICE_NAME`` wins over a ``service.name`` among them.

    Args:
        environ: The environment.
    """
    pairs = (item.partition("=") for item in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","))
    attributes = {key.strip(): unquote(value.strip()) for key, separator, value in pairs if separator and key.strip()}
    name = environ.get("OTEL_SERVICE_NAME", "").strip()
    return {**attributes, "service.name": name} if name else attributes


def max_log_attributes(environ: Mapping[str, str]) -> int:
    """Return how many attributes a log record may have, as the SDK of a program's own reads it.

    OpenTelemetry specification, "Attribute Limits" and "LogRecord Limits"; 128 unless the environment says otherwise.

    Args:
        environ: The environment.
    """
    for name in ("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT"):
        value = environ.get(name, "").strip()
        if value.isdecimal():
            return int(value)
    return 128


def is_coloured(environ: Mapping[str, str], stream: Any) -> bool:
    """Return whether text for people on a stream may have colours.

    ``NO_COLOR`` (https://no-color.org) and ``FORCE_COLOR`` (https://force-color.org) win over what the stream is.

    Args:
        environ: The environment.
        stream: A text stream.
    """
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return True
    if environ.get(CONSOLE_COLORS):
        return environ[CONSOLE_COLORS] == "true"
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def with_absolute_paths(environ: Mapping[str, str], folder: str) -> dict[str, str]:
    """Return the changes that make an environment's paths hold in a worker, whose working directory is a model's.

    Args:
        environ: The environment.
        folder: Where TorchServe was started.
    """
    changes = {
        setting.variable: os.path.join(folder, environ[setting.variable])
        for setting in (*OUR_SETTINGS, *OTEL_SETTINGS)
        if setting.is_path
        and environ.get(setting.variable, "").strip()
        and not os.path.isabs(environ[setting.variable])
    }
    if not environ.get(PREFIX + "FILE_DIR", "").strip():
        changes[PREFIX + "FILE_DIR"] = os.path.join(folder, default_file_dir(environ))
    return changes
