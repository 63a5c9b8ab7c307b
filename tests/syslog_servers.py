"""A real rsyslog and a real syslog-ng that write what they have understood as lines of JSON."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from debian_programs import environ, library, program

_WAIT_SECONDS = 30.0

_RSYSLOG = """
global(workDirectory="{folder}" maxMessageSize="64k"
       defaultNetstreamDriverCAFile="{folder}/ca.pem" defaultNetstreamDriverCertFile="{folder}/server.pem"
       defaultNetstreamDriverKeyFile="{folder}/server.key")
module(load="imuxsock" SysSock.Use="off")
module(load="imudp")
module(load="imptcp")
module(load="imtcp")
module(load="mmpstrucdata")
template(name="parsed" type="list") {{
    constant(value="{{")
    property(name="pri" outname="pri" format="jsonf") constant(value=",")
    property(name="timereported" outname="time" dateFormat="rfc3339" format="jsonf") constant(value=",")
    property(name="hostname" outname="hostname" format="jsonf") constant(value=",")
    property(name="app-name" outname="app_name" format="jsonf") constant(value=",")
    property(name="procid" outname="process" format="jsonf") constant(value=",")
    property(name="msgid" outname="msgid" format="jsonf") constant(value=",")
    property(name="$!rfc5424-sd!opentelemetry!trace_id" outname="trace_id" format="jsonf") constant(value=",")
    property(name="$!rfc5424-sd!opentelemetry!span_id" outname="span_id" format="jsonf") constant(value=",")
    property(name="$!rfc5424-sd!opentelemetry!trace_flags" outname="trace_flags" format="jsonf") constant(value=",")
    property(name="msg" outname="message" format="jsonf")
    constant(value="}}\\n")
}}
ruleset(name="all") {{
    action(type="mmpstrucdata")
    action(type="omfile" file="{folder}/messages.jsonl" template="parsed")
}}
input(type="imuxsock" Socket="{folder}/datagrams" useSpecialParser="off" IgnoreTimestamp="off" ruleset="all")
input(type="imptcp" Path="{folder}/stream" ruleset="all")
input(type="imudp" address="127.0.0.1" port="{udp}" ruleset="all")
input(type="imtcp" address="127.0.0.1" port="{tls}" ruleset="all" StreamDriver.Name="ossl" StreamDriver.Mode="1"
      StreamDriver.AuthMode="anon")
input(type="imtcp" address="127.0.0.1" port="{tcp}" ruleset="all")
"""

_SYSLOG_NG = """
@version: 3.38
options {{ keep-hostname(yes); use-dns(no); ts-format(iso); frac-digits(6); time-zone("UTC"); log-msg-size(65536);
          flush-lines(0); stats-freq(0); }};
source all {{
    unix-dgram("{folder}/datagrams" flags(syslog-protocol));
    unix-stream("{folder}/stream" flags(syslog-protocol));
    syslog(transport("udp") ip("127.0.0.1") port({udp}));
    syslog(transport("tls") ip("127.0.0.1") port({tls})
           tls(key-file("{folder}/server.key") cert-file("{folder}/server.pem") peer-verify(optional-untrusted)));
    syslog(transport("tcp") ip("127.0.0.1") port({tcp}));
}};
destination messages {{
    file("{folder}/messages.jsonl" template("{template}\n"));
}};
log {{ source(all); destination(messages); }};
"""

_SYSLOG_NG_TEMPLATE = (
    "$(format-json pri=$PRI time=$ISODATE hostname=$HOST app_name=$PROGRAM process=$PID msgid=$MSGID"
    " trace_id=${.SDATA.opentelemetry.trace_id} span_id=${.SDATA.opentelemetry.span_id}"
    " trace_flags=${.SDATA.opentelemetry.trace_flags} message=$MSG)"
)


class SyslogServer:
    """One server; its `folder` also has ``ca.pem``, which has signed the server's certificate for ``localhost``.

    Args:
        kind: ``rsyslog`` or ``syslog-ng``.
        folder: An empty folder with a short name: a Unix socket's path has at most 107 bytes.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.ports = {transport: _free_port(transport) for transport in ("udp", "tcp", "tls")}
        self._process: subprocess.Popen[bytes] | None = None
        write_certificates(folder)
        template = _RSYSLOG if kind == "rsyslog" else _SYSLOG_NG
        (folder / "server.conf").write_text(template.format(folder=folder, template=_SYSLOG_NG_TEMPLATE, **self.ports))

    def handler_arguments(self, transport: str) -> dict[str, Any]:
        """What `SyslogHandler` needs for a transport; for Unix sockets there are ``datagrams`` and ``stream``."""
        if transport in ("datagrams", "stream"):
            return {"address": str(self.folder / transport)}
        more = {"ca_file": str(self.folder / "ca.pem")} if transport == "tls" else {}
        return {"address": ["localhost", self.ports[transport]], "transport": transport, **more}

    def start(self) -> None:
        """Start it, and wait until all its sockets are there."""
        name, folder = self.kind, self.folder
        if name == "rsyslog":
            command = [
                program("rsyslogd"), "-n", "-f", f"{folder}/server.conf", "-i", f"{folder}/pid",
                "-M", library("rsyslog"),
            ]  # fmt: skip
        else:
            modules = next(Path(library("syslog-ng")).glob("[0-9]*"))
            command = [
                program("syslog-ng"), "-F", "--no-caps", "-f", f"{folder}/server.conf", "-R", f"{folder}/persist",
                "-p", f"{folder}/pid", "-c", f"{folder}/control", f"--module-path={modules}",
            ]  # fmt: skip
        for socket_file in ("datagrams", "stream"):
            (folder / socket_file).unlink(missing_ok=True)
        with (folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=environ(), stdout=log, stderr=log)
        _wait_until(self._listens, f"{name} to listen", self._said)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._said()
        # In /proc/net: the local port in hexadecimal; state 0A is LISTEN, 07 a bound UDP socket (proc(5)).
        tables = Path("/proc/net/udp").read_text() + Path("/proc/net/tcp").read_text()
        ports = {transport: f"0100007F:{port:04X} 00000000:0000" for transport, port in self.ports.items()}
        return all(
            f"{port} {'07' if transport == 'udp' else '0A'}" in tables for transport, port in ports.items()
        ) and all((self.folder / name).exists() for name in ("datagrams", "stream"))

    def _said(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")

    def messages(self, count: int) -> list[dict[str, Any]]:
        """Wait for so many messages, and return what the server has understood of each."""
        path = self.folder / "messages.jsonl"

        def lines() -> list[str]:
            return path.read_text("utf-8").splitlines() if path.exists() else []

        _wait_until(lambda: len(lines()) >= count, f"{count} messages", lambda: f"{lines()} {self._said()}")
        result = []
        for line in lines():
            message = json.loads(line)
            # rsyslog shows the space that ends the header when there is structured data before it; both the BOM.
            message["message"] = message["message"].lstrip("\ufeff")
            message["pri"] = int(message["pri"])
            result.append(message)
        return result

    def forget(self) -> None:
        """Begin with no messages."""
        (self.folder / "messages.jsonl").write_text("")

    def stop(self) -> None:
        """End it, and wait for the end."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(_WAIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def write_certificates(folder: Path) -> None:
    """Write ``ca.pem``, and ``server.pem`` with ``server.key`` for localhost and collector.invalid."""
    now = dt.datetime.now(dt.timezone.utc)

    def certificate(name: str, key: Any, issuer: str, issuer_key: Any, *, is_authority: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        )
        if is_authority:
            usage = x509.KeyUsage(
                digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
                key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
            )  # fmt: skip
            builder = builder.add_extension(usage, critical=True)
        else:
            names = [x509.DNSName("localhost"), x509.DNSName("collector.invalid")]
            addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName([*names, *addresses]), critical=False)
        return builder.sign(issuer_key, hashes.SHA256())

    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = certificate("test authority", authority_key, "test authority", authority_key, is_authority=True)
    server = certificate("localhost", server_key, "test authority", authority_key, is_authority=False)
    (folder / "ca.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    (folder / "server.pem").write_bytes(server.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def _free_port(transport: str) -> int:
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until(is_so: Any, what: str, explain: Any) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, f"waited in vain for {what}: {explain()}"
        time.sleep(0.02)
