"""Names that the semantic conventions define are spelled as they spell them; severities are the SDK's."""

from __future__ import annotations

import logging

from opentelemetry.sdk._logs._internal import std_to_otel
from opentelemetry.semconv._incubating.attributes import log_attributes
from opentelemetry.semconv.attributes import error_attributes, exception_attributes

from ts_otel_logging import _names
from ts_otel_logging._otlp_log import severity_of


def test_conventional_names() -> None:
    assert error_attributes.ERROR_TYPE == _names.ATTR_ERROR_TYPE
    assert exception_attributes.EXCEPTION_TYPE == _names.ATTR_EXCEPTION_TYPE
    assert exception_attributes.EXCEPTION_MESSAGE == _names.ATTR_EXCEPTION_MESSAGE
    assert exception_attributes.EXCEPTION_STACKTRACE == _names.ATTR_EXCEPTION_STACKTRACE
    assert log_attributes.LOG_RECORD_UID == _names.LOG_RECORD_UID


def test_severities_are_the_sdks() -> None:
    assert [severity_of(level) for level in range(logging.DEBUG, 60)] == [
        std_to_otel(level) for level in range(logging.DEBUG, 60)
    ]
    assert severity_of(5).name == "TRACE"
