"""A server of its own process, on a port that is free."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

TOKEN = "a secret"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}

ATTACKER = "127.0.0.2"
"""An address of this machine beside that of other clients."""


def connected(address: str, start: bytes = b"", client: str = "127.0.0.1", receives_bytes: int = 0) -> socket.socket:
    """A connection from one of this machine's addresses, on which something was sent."""
    host, port = address.removeprefix("http://").split(":")
    connection = socket.socket()
    if receives_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives_bytes)
    connection.bind((client, 0))
    connection.settimeout(20)
    connection.connect((host, int(port)))
    connection.sendall(start)
    return connection


def head_of(route: str, num_bytes: int) -> bytes:
    """The header of a request with a body of so many bytes."""
    return f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Length: {num_bytes}\r\n\r\n".encode()


@contextmanager
def serving(model: Path, *overrides: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Address and process; ended by SIGTERM. TOKEN_OF_TEST is a variable with TOKEN."""
    command = [sys.executable, "-m", "nemo_bt", "serve", f"model.restore_from_path={model}", "serve.port=0"]
    command += ["trainer.accelerator=cpu", "serve.model_name=small", "model.encoder_seq_length=300", *overrides]
    env = os.environ | {"TOKEN_OF_TEST": TOKEN}
    with (model.parent / "stderr.txt").open("w") as stderr:
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert process.stdout
    for line in process.stdout:
        found = re.search(r"at (http://127.0.0.1:\d+):", line)
        if found:
            break
    else:
        raise AssertionError(f"no server: {process.wait()}")
    address = found[1]
    deadline_s = time.monotonic() + 20
    while True:
        try:
            httpx.get(f"{address}/health")
            break
        except httpx.ConnectError:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
    yield address, process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def shown(address: str, name: str) -> float:
    """A number of /metrics."""
    found = re.search(rf"^nemo_bt_{name} (\S+)$", httpx.get(f"{address}/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def status_of(connection: socket.socket) -> int:
    return int(connection.recv(1000).split()[1])


def received(connection: socket.socket) -> bytes:
    """An answer, to the end of its connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def seconds_until_closed(connection: socket.socket) -> float:
    """Until the other side has closed it, with or without an answer."""
    start_s = time.monotonic()
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - start_s
