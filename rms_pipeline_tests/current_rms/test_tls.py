"""What is wrong with TLS is said so that whoever reads it knows what to do."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from rms_pipeline.current_rms.answers import describe


def certificate(folder: Path, *, begins: int, ends: int, host: str = "127.0.0.1") -> Path:
    """A certificate that signed itself, valid between these days from now, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now + timedelta(begins))
        .not_valid_after(now + timedelta(ends))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))]), False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    file.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return file


@contextlib.contextmanager
def served(file: Path | None) -> Iterator[str]:
    """The address of a server that takes one connection: with this certificate, or without TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def take() -> None:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                if file is None:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    connection.recv(10_000)
                    return
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(file)
                context.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=take)
        thread.start()
        yield f"https://127.0.0.1:{listening.getsockname()[1]}/"
        thread.join(30)


def told(url: str, trusted: Path | None) -> str:
    with pytest.raises(requests.RequestException) as raised:
        requests.get(url, timeout=30, verify=str(trusted) if trusted else True)
    return describe(raised.value)


@pytest.mark.parametrize(
    ("begins", "ends", "host", "words"),
    [
        (-30, -1, "127.0.0.1", "has expired, or the clock of this machine is wrong"),
        (1, 30, "127.0.0.1", "is not valid yet: check the clock of this machine"),
        (-1, 30, "127.0.0.2", "is for another host: check DNS and CURRENT_RMS_BASE_URL"),
    ],
)
def test_an_expired_an_early_and_another_hosts_certificate_are_told_apart(
    tmp_path: Path, begins: int, ends: int, host: str, words: str
) -> None:
    file = certificate(tmp_path, begins=begins, ends=ends, host=host)
    with served(file) as url:
        assert told(url, file) == f"no trusted TLS connection (the certificate {words})"


def test_a_certificate_that_a_firewall_made_is_said_to_be_signed_by_a_stranger(
    tmp_path: Path,
) -> None:
    with served(certificate(tmp_path, begins=-1, ends=30)) as url:
        words = told(url, None)
    assert "does not know who signed the certificate: a proxy or firewall" in words
    assert "REQUESTS_CA_BUNDLE" in words


def test_a_server_that_speaks_no_tls_is_not_said_to_have_a_wrong_certificate() -> None:
    with served(None) as url:
        words = told(url, None)
    assert words.startswith("no trusted TLS connection (TLS cannot be agreed on")
    assert "certificate" not in words
