"""Names that the semantic conventions define are spelled as they spell them; severities are the SDK's."""

from __future__ import annotations

import logging

from opentelemetry.sdk._logs._internal import std_to_otel
from opentelemetry.semconv._incubating.attributes import log_attributes, process_attributes, service_attributes
from opentelemetry.semconv.attributes import error_attributes, exception_attributes, http_attributes
from opentelemetry.semconv.schemas import Schemas

from ts_otel_logging import _names
from ts_otel_logging._otlp_log import severity_of


def test_conventional_names() -> None:
    assert error_attributes.ERROR_TYPE == _names.ATTR_ERROR_TYPE
    assert exception_attributes.EXCEPTION_TYPE == _names.ATTR_EXCEPTION_TYPE
    assert exception_attributes.EXCEPTION_MESSAGE == _names.ATTR_EXCEPTION_MESSAGE
    assert exception_attributes.EXCEPTION_STACKTRACE == _names.ATTR_EXCEPTION_STACKTRACE
    assert log_attributes.LOG_RECORD_UID == _names.LOG_RECORD_UID
    assert service_attributes.SERVICE_NAME == _names.ATTR_SERVICE_NAME
    assert service_attributes.SERVICE_INSTANCE_ID == _names.ATTR_SERVICE_INSTANCE_ID
    assert process_attributes.PROCESS_PID == _names.ATTR_PROCESS_PID
    assert f"{http_attributes.HTTP_REQUEST_HEADER_TEMPLATE}." == _names.REQUEST_HEADER_PREFIX
    assert _names.SCHEMA_URL in {schema.value for schema in Schemas}


def test_severities_are_the_sdks() -> None:
    assert [severity_of(level) for level in range(logging.DEBUG, 60)] == [
        std_to_otel(level) for level in range(logging.DEBUG, 60)
    ]
    assert severity_of(5).name == "TRACE"
