"""Further places for log records: a file, syslog, a table of latencies. Plain `logging` handlers.

Usage
-----
From the settings file they run behind a bounded queue, on one background thread. Alone they are synchronous::

    import logging

    from ts_otel_logging.sinks import TimestampedFileHandler

    logging.getLogger().addHandler(TimestampedFileHandler("/var/log/custom.log"))

API
---
`TimestampedFileHandler`
    Appends records to a text file; survives logrotate, and several processes may share the file.
`SyslogHandler`
    Sends records as RFC 5424 over UDP, TCP, TLS or a Unix socket.
`LatencyHandler`
    Appends the latencies of records to a CSV file, and a summary of them when it is closed.

Each has `check`, which returns what is wrong with its file or host now, or None. Constructors open nothing.

A handler with an attribute ``retry_seconds`` that is a number, as these have, loses nothing behind the queue when it
fails with an OSError: the record is offered to it again after that time.
"""

from ts_otel_logging.sinks._file import TimestampedFileHandler
from ts_otel_logging.sinks._latency import LatencyHandler
from ts_otel_logging.sinks._syslog import SyslogHandler

__all__ = ["LatencyHandler", "SyslogHandler", "TimestampedFileHandler"]
