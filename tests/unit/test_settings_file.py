"""Reading the settings file: every form, every mistake named, and what is right of it used."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import re
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import yaml

from ts_otel_logging._file_sinks import SinkFactory
from ts_otel_logging._settings_file import SettingsFile, read_model_section, read_settings_file, unreachable_sinks
from ts_otel_logging._watcher import Watcher

if TYPE_CHECKING:
    from pathlib import Path

YAML = """
enabled: true
traces: no
otlp_logs: false
level: warning
levels: {acme.model: DEBUG, acme: 35}
redact: [iban, "/K-[0-9]{6}/"]
handlers:
  - handler: to_file
    type: logging.FileHandler
    filename: custom.log
    level: ERROR
    formatter: short
formatters:
  short: {format: "%(message)s"}
"""
TOML = """
enabled = true
traces = false
otlp_logs = false
level = "warning"
redact = ["iban", "/K-[0-9]{6}/"]
[levels]
"acme.model" = "DEBUG"
acme = 35
[[handlers]]
handler = "to_file"
type = "logging.FileHandler"
filename = "custom.log"
level = "ERROR"
formatter = "short"
[formatters.short]
format = "%(message)s"
"""
JSON = json.dumps(
    {
        "enabled": True,
        "traces": False,
        "otlp_logs": False,
        "level": "warning",
        "levels": {"acme.model": "DEBUG", "acme": 35},
        "redact": ["iban", "/K-[0-9]{6}/"],
        "handlers": {
            "to_file": {
                "class": "logging.FileHandler", "filename": "custom.log", "level": "ERROR", "formatter": "short"
            }
        },
        "formatters": {"short": {"format": "%(message)s"}},
    }
)  # fmt: skip


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def read(text: str, name: str = "settings.yaml") -> SettingsFile:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return read_settings_file(str(path), str(tmp_path))

    return read


def told(file: SettingsFile) -> dict[str, str]:
    """What is told of each key."""
    return {problem.key: f"{problem.value} → {problem.accepted}" for problem in file.problems}


@pytest.mark.parametrize(("name", "text"), [("s.yaml", YAML), ("s.toml", TOML), ("s.json", JSON), ("no-suffix", YAML)])
def test_the_three_languages_and_both_forms_of_handlers_say_the_same(
    read: Any, tmp_path: Path, name: str, text: str
) -> None:
    file = read(text, name)
    assert file.problems == ()
    switches = file.switches
    assert (switches.enabled, switches.traces, switches.otlp_logs) == (True, False, False)
    assert (switches.level, switches.levels) == (logging.WARNING, {"acme.model": logging.DEBUG, "acme": 35})
    assert switches.redact == ("iban", "/K-[0-9]{6}/")
    (sink,) = file.sinks
    assert (sink.name, sink.level) == ("to_file", logging.ERROR)
    assert sink.config == {
        "class": "logging.FileHandler", "filename": str(tmp_path / "custom.log"), "formatter": "short"
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}"])
def test_an_empty_file_says_nothing(read: Any, text: str) -> None:
    file = read(text)
    assert (file.problems, file.sinks, file.switches.enabled) == ((), (), None)


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("enabled: perhaps", "enabled", ("perhaps", "true, false")),
        ("traces: 2", "traces", ("2", "true, false")),
        ("level: LOUD", "level", ("LOUD", "WARNING", "number")),
        ("level: true", "level", ("true", "WARNING")),
        ("levels: {acme.model: LOUD}", "levels.acme.model", ("LOUD", "WARNING")),
        ("levels: [acme]", "levels", ("acme", "mapping")),
        ("redact: [/(/]", "redact", ("/(/", "regular expression")),
        ("redact: 7", "redact", ("7", "list")),
        ("levles: {}", "levles", ("no such key", "levels", "handlers")),
        ("handlers: everywhere", "handlers", ("everywhere", "list of handlers")),
        ("handlers: [syslog]", "handlers[0]", ("syslog", "mapping with handler, type")),
        ("handlers: [{handler: x}]", "handlers.x.type", ("TimestampedFileHandler", "package.module.Class")),
        ("handlers: [{handler: x, type: Pigeon}]", "handlers.x.type", ("Pigeon", "SyslogHandler")),
        ("handlers: [{handler: x, type: logging.Pigeon}]", "handlers.x.type", ("logging.Pigeon", "SyslogHandler")),
        (
            "handlers: [{handler: x, type: json.JSONDecoder}]",
            "handlers.x.type",
            ("json.JSONDecoder", "logging.Handler"),
        ),
        ("handlers: [{handler: x, type: json.nothing.X}]", "handlers.x.type", ("json.nothing.X", "logging.Handler")),
        (
            "handlers: [{handler: x, type: logging.StreamHandler}]",
            "handlers.x.type",
            ("every event is on the console",),
        ),
        (
            "handlers: {x: {class: logging.StreamHandler, stream: 'ext://sys.stdout'}}",
            "handlers.x.type",
            ("every event is on the console",),
        ),
        ("level: INFO\ntraces: false\nlevel: DEBUG", "line 3", ("level", "the last one holds")),
        ("levels:\n  a: INFO\n  'a': DEBUG", "line 3", ("a", "once")),
        ("handlers: {x: {class: logging.NullHandler, level: LOUD}}", "handlers.x.level", ("LOUD", "WARNING")),
        ("handlers: {x: {class: logging.NullHandler, colour: red}}", "handlers.x.colour", ("red", "no such argument")),
        ("handlers: {x: {class: logging.FileHandler}}", "handlers.x.filename", ("FileHandler needs it",)),
        ("handlers: {x: {class: logging.NullHandler, formatter: y}}", "handlers.x.formatter", ("y", "there are none")),
        ("handlers: {x: {class: logging.NullHandler, filters: [y]}}", "handlers.x.filters", ("y", "there are none")),
        (
            "handlers: {x: {class: logging.FileHandler, filename: /no/such/folder/x.log}}",
            "handlers.x.filename",
            ("/no/such/folder/x.log", "can be written", "no folder"),
        ),
        ("handlers: {x: {class: logging.FileHandler, filename: /}}", "handlers.x.filename", ("is a folder",)),
        (
            "handlers: {x: {class: logging.NullHandler, formatter: [y]}}",
            "handlers.x.formatter",
            ("y", "there are none"),
        ),
        ("handlers: {x: {class: logging.NullHandler, filters: 5}}", "handlers.x.filters", ("5", "a list, each a name")),
        ("version: 2", "version", ("2 → 1",)),
        ("incremental: true", "incremental", ("true → false",)),
        ("disable_existing_loggers: true", "disable_existing_loggers", ("no logger is ever disabled",)),
        ("loggers: {acme: {level: LOUD}}", "loggers.acme.level", ("LOUD", "WARNING")),
        ("loggers: {acme: {filters: [x]}}", "loggers.acme.filters", ("no such key", "propagate")),
        ("root: {handlers: [x]}", "root.handlers", ("x", "there are none")),
        ("formatters: [x]", "formatters", ("mapping of names",)),
    ],
)
def test_what_cannot_be_used_is_named_with_file_and_key_and_what_is_accepted(
    read: Any, text: str, key: str, words: tuple[str, ...]
) -> None:
    file = read(text)
    assert list(told(file)) == [key]
    assert file.problems[0].file.endswith("settings.yaml")
    for word in words:
        assert word in told(file)[key]


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("s.yaml", "level: INFO\nlevels: {acme: DEBUG\n", "line 3"),
        ("s.toml", 'level = "INFO"\nlevels =\n', "line 2"),
        ("s.json", '{"level": "INFO",\n "levels": }', "line 2"),
    ],
)
def test_where_it_cannot_be_parsed_the_line_is_named(read: Any, name: str, text: str, line: str) -> None:
    file = read(text, name)
    (problem,) = file.problems
    assert not file.is_readable
    assert problem.key == line
    assert problem.accepted == f"well-formed {name[2:].upper()}"


def test_a_file_that_is_no_mapping_or_too_long_or_not_there_is_told(read: Any, tmp_path: Path) -> None:
    assert "a mapping with enabled" in told(read("- enabled"))[""]
    assert "at most 1048576" in told(read("#" * 1_048_577))[""]
    assert "No such file" in told(read_settings_file(str(tmp_path / "none.yaml"), "/"))[""]
    assert not read("\x00").is_readable


def test_a_logger_that_is_set_to_nothing_is_not_in_levels(read: Any) -> None:
    file = read("levels: {acme.model: DEBUG, acme: }")
    assert (file.problems, file.switches.levels) == ((), {"acme.model": logging.DEBUG})


def test_every_mistake_is_found_in_one_pass_and_the_rest_holds(read: Any) -> None:
    file = read("""
        level: LOUD
        traces: false
        levels: {acme: LOUD, other: DEBUG}
        redact: [iban, 7]
        handlers:
          - {handler: wrong, type: Pigeon}
          - {handler: right, type: logging.NullHandler}
          - {handler: right, type: logging.NullHandler}
    """)
    assert list(told(file)) == ["level", "redact", "levels.acme", "handlers.wrong.type", "handlers.right"]
    assert (file.switches.level, file.switches.traces, file.switches.levels) == (None, False, {"other": logging.DEBUG})
    assert file.switches.redact == ("iban",)
    assert [sink.name for sink in file.sinks] == ["right"]


def test_the_standard_librarys_form_has_levels_and_ways_for_loggers(read: Any) -> None:
    file = read("""
        version: 1
        disable_existing_loggers: false
        handlers:
          all: {class: logging.NullHandler}
          audit: {class: logging.NullHandler}
        loggers:
          acme.audit: {level: DEBUG, handlers: [audit], propagate: false}
        root: {level: WARNING, handlers: [all]}
    """)
    assert file.problems == ()
    assert (file.switches.level, file.switches.levels) == (logging.WARNING, {"acme.audit": logging.DEBUG})
    reached = {
        logger: [sink.name for sink in file.sinks if file.routes.reaches(logger, sink.name)]
        for logger in ("root", "acme", "acme.audit.login", "acme.auditor")
    }
    assert reached == {"root": ["all"], "acme": ["all"], "acme.audit.login": ["audit"], "acme.auditor": ["all"]}


def test_the_seeds_own_kinds_are_made_as_the_file_says(read: Any, tmp_path: Path) -> None:
    file = read("""
        handlers:
          - handler: custom_file_handler
            type: TimestampedFileHandler
            filename: custom.log
            level: INFO
          - {handler: to_syslog, type: SyslogHandler, address: [127.0.0.1, 514], facility: user, level: WARNING}
          - {handler: latency, type: LatencyHandler, filename: latency.csv, level: INFO}
    """)
    assert file.problems == ()
    assert [(sink.name, sink.level) for sink in file.sinks] == [
        ("custom_file_handler", logging.INFO),
        ("to_syslog", logging.WARNING),
        ("latency", logging.INFO),
    ]
    assert file.sinks[2].config["filename"] == str(tmp_path / "latency.csv")
    assert unreachable_sinks(file) == []


@pytest.mark.parametrize(
    ("sink", "key", "words"),
    [
        ("{class: SyslogHandler, facility: kitchen}", "facility", ("kitchen → 0 to 23, or one of ", "local7")),
        ("{class: SyslogHandler, transport: quic}", "transport", ("quic → udp or tcp or tls with a host",)),
        ("{class: SyslogHandler, address: [localhost, 70000]}", "address", ("70000] → [host, port]", "1 to 65535")),
        (
            "{class: SyslogHandler, transport: tls, cert_file: /no.pem}",
            "cert_file",
            ("/no.pem → a certificate with its key, as PEM: No such file",),
        ),
        ("{class: TimestampedFileHandler, filename: 5}", "filename", ("5 → a path",)),
        ("{class: LatencyHandler, filename: x.csv, summary_filename: 5}", "summary_filename", ("5 → a path",)),
        ("{class: LatencyHandler, filename: x.csv, columns: 7}", "columns", ("7 → a list of names",)),
        ("{class: SyslogHandler, colour: red}", "colour", ("no such argument", "address")),
        ("{class: SyslogHandler, address: 514}", "address", ("514", "[host, port]")),
        ("{class: LatencyHandler, filename: x.csv, columns: [7]}", "columns", ("7", "list of names")),
        ("{class: TimestampedFileHandler}", "filename", ("needs it",)),
    ],
)
def test_their_arguments_are_checked(read: Any, sink: str, key: str, words: tuple[str, ...]) -> None:
    file = read(f"handlers: {{x: {sink}}}")
    assert list(told(file)) == [f"handlers.x.{key}"]
    for word in words:
        assert word in told(file)[f"handlers.x.{key}"]
    assert ", not " not in told(file)[f"handlers.x.{key}"]


def test_what_cannot_be_reached_now_is_told_and_made_all_the_same(read: Any, tmp_path: Path) -> None:
    file = read("""
        handlers:
          here: {class: SyslogHandler, address: [127.0.0.1, 514]}
          file: {class: TimestampedFileHandler, filename: no/such/folder/x.log}
          nowhere: {class: SyslogHandler, address: [no-such-host.invalid, 514]}
    """)
    assert (file.problems, len(file.sinks)) == ((), 3)
    problems = {problem.key: problem for problem in unreachable_sinks(file)}
    assert list(problems) == ["handlers.file.filename", "handlers.nowhere.address"]
    assert "a file that can be written to" in problems["handlers.file.filename"].accepted
    assert "no-such-host.invalid" in problems["handlers.nowhere.address"].value
    assert "a host that has an address" in problems["handlers.nowhere.address"].accepted


def test_a_merged_mapping_repeats_nothing(read: Any) -> None:
    file = read("""
        handlers:
          one: &one {class: logging.FileHandler, filename: one.log, level: INFO}
          two: {<<: *one, filename: two.log}
          three: {<<: *one, <<: {level: ERROR}}
    """)
    assert file.problems == ()
    assert [os.path.basename(sink.config["filename"]) for sink in file.sinks] == ["one.log", "two.log", "one.log"]


def test_a_package_that_is_not_there_is_told_without_an_import_of_one_that_is(
    read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_by_the_worker_alone.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(tmp_path)
    file = read("""
        handlers:
          there: {class: imported_by_the_worker_alone.Handler}
          made: {(): "ext://imported_by_the_worker_alone.make"}
          nowhere: {class: no_such_package.module.Handler}
    """)
    assert (file.problems, len(file.sinks)) == ((), 3)
    (problem,) = unreachable_sinks(file)
    assert (problem.key, problem.value) == ("handlers.nowhere", "no_such_package.module.Handler")
    assert "there is no no_such_package here" in problem.accepted


class Own(logging.Handler):
    """A handler that the file names by its dotted name."""

    def __init__(self, filename: str, size: int = 1) -> None:
        super().__init__()
        if size < 0:
            raise ValueError("a negative size")


@pytest.mark.parametrize(
    ("arguments", "told_of_it"),
    [
        (
            "filenam: x",
            {
                "handlers.x.filenam": "no such argument; there are level, formatter, filters, filename, size",
                "handlers.x.filename": "a value: Own needs it",
            },
        ),
        ("filename: x, size: -1", {"handlers.x": "arguments that it can be made with; ValueError: a negative size"}),
    ],
)
def test_what_only_a_worker_finds_out_is_told_as_clearly(read: Any, arguments: str, told_of_it: dict[str, str]) -> None:
    file = read(f"handlers: {{x: {{class: {__name__}.Own, {arguments}}}}}")
    factory = SinkFactory(file)
    assert (file.problems, factory.build(*file.sinks)) == ((), None)
    assert {problem.key: problem.accepted for problem in factory.problems} == told_of_it


class TestDocumentation:
    PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    EXAMPLES: ClassVar = re.findall(r"```(yaml|toml)\n(.*?)```", PAGE, re.DOTALL)

    def test_every_example_can_be_used(self, read: Any) -> None:
        files = []
        for language, text in self.EXAMPLES:
            if text.startswith("# model-config.yaml"):
                switches, problems = read_model_section(yaml.safe_load(text)["ts_otel_logging"], "model-config.yaml")
                assert (switches.redact, problems) == (("customer_number",), ())
                continue
            file = read(text, f"settings.{language}")
            assert file.problems == ()
            assert unreachable_sinks(file) == []
            factory = SinkFactory(file)
            handlers = [factory.build(sink) for sink in file.sinks]
            assert factory.problems == []
            for handler in handlers:
                handler.close()
            files.append([sink.name for sink in file.sinks])
        assert files == [
            ["custom_file_handler", "to_syslog", "latency"],
            ["custom_file_handler"],
            ["everything", "audit"],
        ]

    def test_every_key_has_its_row(self, read: Any) -> None:
        listed = set(re.findall(r"^\| `(\w+)`", self.PAGE, re.MULTILINE))
        (problem,) = read("no_such_key: 1").problems
        accepted = set(problem.accepted.partition("there are ")[2].split(", "))
        of_dict_config = {"version", "formatters", "filters", "loggers", "root"}
        assert listed == accepted - of_dict_config - {"disable_existing_loggers", "incremental"}


class TestModelSection:
    def test_has_levels_and_format_and_more_to_mask(self) -> None:
        section = {"level": "DEBUG", "levels": {"acme": "ERROR"}, "format": "structlog", "redact": ["iban"]}
        switches, problems = read_model_section(section, "/m/model-config.yaml")
        assert problems == ()
        assert (switches.level, switches.levels) == (logging.DEBUG, {"acme": logging.ERROR})
        assert (switches.format, switches.redact) == ("structlog", ("iban",))

    @pytest.mark.parametrize(
        ("section", "key"),
        [
            ({"enabled": False}, "ts_otel_logging.enabled"),
            ({"format": "xml"}, "ts_otel_logging.format"),
            ({"levels": {"acme": "LOUD"}}, "ts_otel_logging.levels.acme"),
            ("DEBUG", "ts_otel_logging"),
        ],
    )
    def test_what_it_cannot_have_is_named(self, section: Any, key: str) -> None:
        _, (problem,) = read_model_section(section, "/m/model-config.yaml")
        assert (problem.file, problem.key) == ("/m/model-config.yaml", key)


class TestWatcher:
    @pytest.fixture
    def changes(self) -> list[str]:
        return []

    def test_tells_a_change_once_and_only_when_it_stands_still(self, tmp_path: Path, changes: list[str]) -> None:
        path = tmp_path / "settings.yaml"
        path.write_text("level: INFO")
        watcher = Watcher(str(path), lambda: changes.append(path.read_text()))
        watcher.look()
        path.write_text("level:")
        watcher.look()
        path.write_text("level: DEBUG")
        watcher.look()
        assert changes == []
        for _ in range(3):
            watcher.look()
        assert changes == ["level: DEBUG"]

    def test_sees_what_a_configmap_does(self, tmp_path: Path, changes: list[str]) -> None:
        # https://kubernetes.io/docs/concepts/configuration/configmap/: the name is a link through ..data, which the
        # kubelet replaces by a rename.
        for version, level in (("..1", "INFO"), ("..2", "WARN")):
            (tmp_path / version).mkdir()
            (tmp_path / version / "settings.yaml").write_text(f"level: {level}")
            os.utime(tmp_path / version / "settings.yaml", (1, 1))
        (tmp_path / "..data").symlink_to("..1")
        path = tmp_path / "settings.yaml"
        path.symlink_to("..data/settings.yaml")
        watcher = Watcher(str(path), lambda: changes.append(path.read_text()))
        (tmp_path / "..tmp").symlink_to("..2")
        os.replace(tmp_path / "..tmp", tmp_path / "..data")
        watcher.look()
        watcher.look()
        assert changes == ["level: WARN"]

    def test_sees_a_file_go_and_come(self, tmp_path: Path, changes: list[str]) -> None:
        path = tmp_path / "settings.yaml"
        watcher = Watcher(str(path), lambda: changes.append("there" if path.exists() else "gone"))
        for change in (path.touch, path.unlink):
            change()
            for _ in range(3):
                watcher.look()
        assert changes == ["there", "gone"]
