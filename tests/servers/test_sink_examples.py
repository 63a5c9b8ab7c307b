"""The examples of docs/sinks.md, as they stand there, on a real PostgreSQL, a real Redis and SQLite."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from debian_programs import as_ordinary_user, environ, program
from lines import Lines
from ts_otel_logging import BridgeHandler
from ts_otel_logging._settings_file import read_settings_file
from ts_otel_logging._sink_thread import SinkThread
from ts_otel_logging.sinks import LatencyHandler, SyslogHandler, TimestampedFileHandler

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (Path(__file__).parents[2] / "docs" / "sinks.md").read_text("utf-8")
EXAMPLES = re.findall(r"^```(python|yaml)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
TRACER = TracerProvider().get_tracer("test")


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module whose text is on the page."""
    monkeypatch.syspath_prepend(tmp_path)

    def module(name: str) -> Any:
        [text] = [text for _, text in EXAMPLES if text.startswith(f"# {name}.py\n")]
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield module
    for name in [name for name in sys.modules if name.startswith("acme_")]:
        del sys.modules[name]


class Sinks:
    """Logs through the bridge to one sink behind the queue."""

    def __init__(self, sink: logging.Handler) -> None:
        self.thread = SinkThread()
        self.thread.set_sinks({"example": sink})
        self.lines = Lines()
        bridge = BridgeHandler(stream=self.lines)
        bridge.add_output(self.thread)
        self.logger = logging.getLogger("acme.model")
        self.logger.handlers[:] = [bridge]
        self.logger.propagate = False
        self.logger.setLevel(logging.INFO)

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.logger.handlers.clear()
        self.logger.setLevel(logging.NOTSET)
        self.logger.propagate = True
        assert self.thread.shutdown(30), self.lines.getvalue()

    def log(self) -> str:
        with TRACER.start_as_current_span("predict") as span:
            self.logger.info("Größe %d", 3)
        self.logger.warning("outside")
        assert self.thread.flush(30), self.lines.getvalue()
        return f"{span.get_span_context().trace_id:032x}"


def test_sqlite(acme: Any, tmp_path: Path) -> None:
    path = tmp_path / "logs.db"
    with Sinks(acme("acme_sqlite").SqliteHandler(path)) as sinks:
        trace_id = sinks.log()
    with contextlib.closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT level, message, trace_id FROM logs ORDER BY time").fetchall()
    assert rows == [("INFO", "Größe 3", trace_id), ("WARNING", "outside", "")]


class Postgres:
    """A real PostgreSQL on a Unix socket alone, in a folder that its user owns: it refuses to be root's."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="postgres-")
        user = as_ordinary_user()
        if user:
            os.chown(self.folder, user["user"], user["group"])
        self._run = {**user, "env": {**environ(), "HOME": self.folder, "LC_ALL": "C"}, "cwd": self.folder}
        self.conninfo = f"host={self.folder} user=postgres dbname=postgres"
        self.call("initdb", "--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")

    def call(self, name: str, *options: str) -> None:
        # Into a file, not a pipe: the server inherits it from pg_ctl, and keeps it open.
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(
                [program(name), f"--pgdata={self.folder}/data", *options],
                stdout=said, stderr=said, timeout=60, check=False, **self._run,
            )  # fmt: skip
            said.seek(0)
            assert done.returncode == 0, said.read().decode()

    def start(self) -> None:
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off -c shared_buffers=1MB"
        self.call("pg_ctl", "--wait", "--options", options, "start")

    def stop(self) -> None:
        self.call("pg_ctl", "--wait", "--mode=fast", "stop")


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    server.start()
    yield server
    server.stop()
    shutil.rmtree(server.folder)


def test_postgresql_that_is_restarted_meanwhile(acme: Any, postgres: Postgres) -> None:
    with psycopg.connect(postgres.conninfo) as database:
        database.execute("CREATE TABLE logs (time timestamptz, level text, message text, trace_id text)")
    with Sinks(acme("acme_postgres").PostgresHandler(postgres.conninfo)) as sinks:
        trace_id = sinks.log()
        postgres.stop()
        for number in range(20):
            sinks.logger.info("away %d", number)
        postgres.start()
    with psycopg.connect(postgres.conninfo) as database:
        rows = database.execute(
            "SELECT level, message, trace_id FROM logs WHERE message NOT LIKE 'sink %%' ORDER BY time", ()
        ).fetchall()
    away = [("INFO", f"away {number}", "") for number in range(20)]
    assert rows == [("INFO", "Größe 3", trace_id), ("WARNING", "outside", ""), *away]


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        path = f"{folder}/redis.sock"
        command = [program("redis-server"), "--port", "0", "--unixsocket", path, "--save", "", "--dir", folder]
        with subprocess.Popen(command, env=environ(), stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                assert any("eady to accept connections" in line for line in server.stdout)
                yield f"unix://{path}"
            finally:
                server.terminate()
                server.stdout.read()


def test_redis_whose_client_is_instrumented(acme: Any, redis_url: str) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    RedisInstrumentor().instrument(tracer_provider=provider)
    try:
        with Sinks(acme("acme_redis").RedisStreamHandler(redis_url)) as sinks:
            trace_id = sinks.log()
        assert exporter.get_finished_spans() == (), "a sink's own requests are nobody's trace"
        with redis.Redis.from_url(redis_url, decode_responses=True) as client:
            entries = [fields for _, fields in client.xrange("logs")]
        assert exporter.get_finished_spans() != ()
    finally:
        RedisInstrumentor().uninstrument()
    assert [(fields["message"], fields["trace_id"]) for fields in entries] == [("Größe 3", trace_id), ("outside", "")]
    assert all(float(fields["time"]) > 1.7e9 for fields in entries)


def test_the_settings_files_on_the_page_are_accepted(acme: Any, tmp_path: Path) -> None:
    acme("acme_redis")
    texts = [text for language, text in EXAMPLES if language == "yaml"]
    assert len(texts) == 2
    for text in texts:
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        file = read_settings_file(str(path), str(tmp_path))
        assert file.problems == ()
        assert file.sinks


def test_a_handler_alone_is_synchronous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [text] = [text for language, text in EXAMPLES if language == "python" and not text.startswith("# acme")]
    before = logging.getLogger().handlers[:]
    exec(compile(text, "sinks.md", "exec"), {})
    logging.getLogger().warning("ready")
    [handler] = [handler for handler in logging.getLogger().handlers if handler not in before]
    assert (tmp_path / "custom.log").read_text().endswith("WARNING root ready\n")
    handler.close()


@pytest.mark.parametrize("kind", [TimestampedFileHandler, SyslogHandler, LatencyHandler])
def test_every_argument_is_on_the_page(kind: type[logging.Handler]) -> None:
    section = PAGE.split(f"\n## `{kind.__name__}`\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    documented = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(documented) == sorted(inspect.signature(kind).parameters)
