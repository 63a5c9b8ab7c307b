"""What `java_command` decides, and that the file it names can be read."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree as ET

import pytest

from ts_otel_logging import _launcher
from ts_otel_logging._launcher import FrontendDecision, java_command
from ts_otel_logging._redaction import jvm_pattern

MAIN_CLASS = "org.pytorch.serve.ModelServer"


def java(*options: str) -> list[str]:
    """The command that ts.model_server.start builds, with a user's options where it puts them."""
    return ["java", "-Dmodel_server_home=/ts", *options, "-cp", ".:/ts/frontend/*", MAIN_CLASS, "-s", "/models"]


class TestJavaCommand:
    def test_adds_our_file_after_the_packaged_one_before_every_other_argument(self, tmp_path):
        command, decision = java_command(java("-Xmx1g"), {}, str(tmp_path), frontend="json")

        assert command[0] == "java"
        assert command[1].startswith("-Dlog4j.configurationFile=classpath:log4j2.xml,file:///")
        assert command[1].endswith("/_log4j2.xml")
        assert command[-len(java("-Xmx1g")) + 1 :] == java("-Xmx1g")[1:]
        assert decision == "json"

    @pytest.mark.parametrize(
        ("frontend", "files"),
        [
            ("json", ["_log4j2.xml"]),
            ("json+files", ["_log4j2.xml", "_log4j2_json_files.xml"]),
            ("json-only", ["_log4j2.xml", "_log4j2_no_files.xml"]),
        ],
    )
    def test_each_mode_is_a_list_of_files_that_are_there(self, frontend, files, tmp_path):
        uris = java_command(java(), {}, str(tmp_path), frontend=frontend).command[1].split(",")[1:]

        paths = [Path(unquote(urlsplit(uri).path)) for uri in uris]
        assert [path.name for path in paths] == files
        assert all(path.is_file() for path in paths)

    @pytest.mark.parametrize("frontend", ["json", "json+files", "json-only"])
    @pytest.mark.parametrize(("colors", "plain"), [(True, ["-Dts_otel_logging.plain=false"]), (False, [])])
    def test_for_people_one_more_file_comes_last(self, frontend, colors, plain, tmp_path):
        stock = java_command(java(), {}, str(tmp_path), frontend=frontend).command
        command = java_command(java(), {}, str(tmp_path), frontend=frontend, colors=colors).command

        assert command[1].startswith(stock[1])
        assert [Path(unquote(urlsplit(uri).path)).name for uri in command[1][len(stock[1]) :].split(",")[1:]] == [
            "_log4j2_people.xml"
        ]
        assert [argument for argument in command[2:] if argument not in stock] == plain

    @pytest.mark.parametrize(
        ("level", "name"),
        [(0, "ALL"), (5, "ALL"), (10, "DEBUG"), (15, "INFO"), (20, "INFO"), (30, "WARN"), (40, "ERROR"), (50, "FATAL")],
    )
    def test_the_level_is_log4js_name_for_it(self, level, name, tmp_path):
        command = java_command(java(), {}, str(tmp_path), frontend="json", level=level).command

        assert f"-Dts_otel_logging.level={name}" in command

    @pytest.mark.parametrize(
        ("frontend", "level", "chatter", "metrics"),
        [
            ("json", 20, False, False),
            ("json", 10, True, True),
            ("json-only", 20, False, True),
        ],
    )
    def test_what_is_told_elsewhere_is_quiet_until_everything_is_wanted(
        self, frontend, level, chatter, metrics, tmp_path
    ):
        command = java_command(java(), {}, str(tmp_path), frontend=frontend, level=level).command

        assert ("-Dts_otel_logging.chatter=NEUTRAL" in command) is chatter
        assert ("-Dts_otel_logging.metrics=ALL" in command) is metrics

    def test_leaves_the_given_command_as_it_was(self, tmp_path):
        given = java()

        java_command(given, {}, str(tmp_path), frontend="json")

        assert given == java()

    def test_off_is_stock(self, tmp_path):
        assert java_command(java(), {}, str(tmp_path), frontend="off") == (java(), FrontendDecision.OFF)

    @pytest.mark.parametrize(
        "argument",
        [
            "-Dlog4j.configurationFile=file:///etc/mine.xml",
            "-Dlog4j2.configurationFile=mine.xml",
            "-Dlog4j2.configuration-file=mine.xml",
        ],
    )
    def test_log_config_and_vmargs_win(self, argument, tmp_path):
        given = java("-Xmx1g", argument)

        assert java_command(given, {}, str(tmp_path), frontend="json") == (given, FrontendDecision.ARGUMENT)

    @pytest.mark.parametrize("variable", ["JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"])
    def test_javas_own_variables_win(self, variable, tmp_path):
        environ = {variable: "-Xmx1g -Dlog4j2.configurationFile=/etc/mine.xml"}

        assert java_command(java(), environ, str(tmp_path), frontend="json") == (java(), FrontendDecision.JAVA_OPTIONS)

    def test_log4js_own_variable_wins(self, tmp_path):
        environ = {"LOG4J_CONFIGURATION_FILE": "file:///etc/mine.xml"}

        assert java_command(java(), environ, str(tmp_path), frontend="json") == (java(), FrontendDecision.VARIABLE)

    @pytest.mark.parametrize(
        "name",
        [
            "log4j2.xml",
            "log4j2.properties",
            "log4j2-test.xml",
            "log4j2-test.properties",
            "log4j2.component.properties",
        ],
    )
    def test_a_file_in_the_working_directory_wins(self, name, tmp_path):
        (tmp_path / name).touch()

        assert java_command(java(), {}, str(tmp_path), frontend="json") == (java(), FrontendDecision.WORKING_DIRECTORY)

    @pytest.mark.parametrize(
        "environ",
        [
            {"JAVA_TOOL_OPTIONS": "-Xmx1g -Dlog4j2.formatMsgNoLookups=true"},
            {"LOG4J_CONFIGURATION_FILE": ""},
            {"LOG4J_LEVEL": "debug"},
        ],
    )
    def test_what_is_no_log4j_configuration_does_not_stop_us(self, environ, tmp_path):
        given = java("-Dlog4j2.formatMsgNoLookups=true")
        (tmp_path / "log4j2.xml.bak").touch()

        assert java_command(given, environ, str(tmp_path), frontend="json").decision == "json"

    def test_every_decision_reads_as_text(self):
        assert [f"{decision}" for decision in FrontendDecision] == [decision.value for decision in FrontendDecision]

    def test_a_path_with_characters_that_log4j_interprets_is_escaped(self, tmp_path, monkeypatch):
        folder = tmp_path / "a b,c?d&override=e+f%20${java:version}#é"
        folder.mkdir()
        monkeypatch.setattr(_launcher, "_FOLDER", folder)

        argument = java_command(java(), {}, "/", frontend="json").command[1]

        packaged, _, uri = argument.partition("=")[2].partition(",")
        assert packaged == "classpath:log4j2.xml"
        assert not set(uri) & set(" ,?&+${}#é")
        assert Path(unquote(urlsplit(uri).path)) == folder / "_log4j2.xml"


class TestLog4jFile:
    @pytest.mark.parametrize("frontend", ["json+files", "json-only"])
    def test_the_other_files_are_well_formed_and_name_the_five_of_torchserve(self, frontend, tmp_path):
        argument = java_command(java(), {}, str(tmp_path), frontend=frontend).command[1]
        root = ET.parse(unquote(urlsplit(argument.split(",")[2]).path)).getroot()
        names = {str(appender.get("name")).removesuffix("_worker_json") for appender in root.iterfind("Appenders/*")}
        assert names == {"access_log", "model_log", "model_metrics", "ts_log", "ts_metrics"}

    def test_two_that_write_one_file_differ_in_their_layout_alone(self, tmp_path):
        argument = java_command(java(), {}, str(tmp_path), frontend="json+files").command[1]
        root = ET.parse(unquote(urlsplit(argument.split(",")[2]).path)).getroot()
        appenders = {str(appender.attrib.pop("name")): appender for appender in root.iterfind("Appenders/*")}
        for appender in appenders.values():
            appender.remove(next(appender.iter("PatternLayout")))
        for name in ("model_log", "ts_log"):
            assert ET.tostring(appenders[name]).strip() == ET.tostring(appenders[f"{name}_worker_json"]).strip()

    @pytest.fixture
    def root(self, tmp_path) -> ET.Element:
        argument = java_command(java(), {}, str(tmp_path), frontend="json").command[1]
        copy = tmp_path / "read.xml"
        shutil.copy(unquote(urlsplit(argument.partition(",")[2]).path), copy)
        return ET.parse(copy).getroot()

    def test_is_well_formed_and_touches_the_console_alone(self, root):
        assert root.tag == "Configuration"
        assert {appender.tag for appender in root.iterfind("Appenders/*")} == {"Console"}
        assert "STDOUT" in {appender.get("name") for appender in root.iterfind("Appenders/*")}

    def test_every_reference_to_a_property_is_defined_before(self, root):
        defined: set[str] = set()
        for element in root.iter():
            texts = [element.text or "", *element.attrib.values()]
            used = {name.partition("}")[0] for text in texts for name in text.split("${")[1:]}
            # Another lookup than our own properties: it says where it looks, and has a default.
            assert {name for name in used if not re.fullmatch(r"sys:ts_otel_logging\.\w+:-\w+", name)} <= defined
            if element.tag == "Property":
                defined.add(element.attrib["name"])

    def test_masks_what_the_worker_masks(self, root):
        properties = {element.attrib["name"]: element.text for element in root.iter("Property")}
        assert (properties["secrets"], properties["mask"]) == jvm_pattern()
        # log4j counts braces to find where an option of a pattern ends, and looks up what is in ${...}.
        assert properties["secrets"].count("{") == properties["secrets"].count("}")
        assert "${" not in properties["secrets"]
        assert "${masked_event}" in properties["line"]
        for field, converter in (("masked_event", "%m"), ("stacktrace", "%xEx")):
            assert f"%replace{{{converter}}}{{${{secrets}}}}{{${{mask}}}}" in properties[field]
