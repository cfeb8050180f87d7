"""versitygw, an S3 server over a folder, started on loopback with keys of its own.

Called by integration tests and benchmarks of publishing. It checks signatures and checksums, keeps
promises about `If-None-Match` and forgets nothing when it is killed.

    with VersityGateway(tmp_path) as s3:
        s3.client.create_bucket(Bucket="models")
        s3.restart()

The binary is what `make tools` built; a missing one fails the test, because without the real
server it would prove nothing.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import boto3
import pytest
from botocore.config import Config

from tests.servers.ports import free_port
from tests.servers.prometheus import built

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REGION = "us-east-1"
_READY_WITHIN = 240.0  # seconds; it takes a tenth of one on an idle machine


@dataclass(frozen=True)
class Account:
    """A user of a server, what a Secret for him holds, and how he reaches it."""

    access_key: str
    secret_key: str

    @classmethod
    def new(cls, name: str) -> Self:
        """Keys that nobody has had."""
        return cls(f"{name}{secrets.token_hex(6)}", secrets.token_urlsafe(30))

    def environment(self, endpoint: str) -> dict[str, str]:
        """What a client finds its way and its keys by."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, endpoint: str) -> "S3Client":
        """A boto3 client, for preparing and looking."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 8}),
        )

    @property
    def credentials_file(self) -> str:
        """The text of an AWS credentials file."""
        return (
            f"[default]\naws_access_key_id = {self.access_key}\n"
            f"aws_secret_access_key = {self.secret_key}\nregion = {REGION}\n"
        )


class VersityGateway:
    """One server process with its data below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._binary = built(
            "versitygw"
        )  # before a test's environment is cleaned, which may say where
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._root = Account.new("root")
        self.access_key = self._root.access_key
        self.secret_key = self._root.secret_key

    def __enter__(self) -> Self:
        self.data.mkdir(parents=True)
        (self._folder / "iam").mkdir()
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def data(self) -> Path:
        """Where buckets and objects lie as folders and files."""
        return self._folder / "data"

    @property
    def port(self) -> int:
        """The port on loopback; kept over a restart."""
        return self._port

    @property
    def endpoint(self) -> str:
        """The value of AWS_ENDPOINT_URL."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client finds its way and its keys by; nothing of this machine."""
        return {
            **self._root.environment(self.endpoint),
            "AWS_CONFIG_FILE": str(self._folder / "no-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self._folder / "no-credentials"),
        }

    @cached_property
    def client(self) -> "S3Client":
        """A boto3 client of this server, for preparing and looking."""
        return self._root.client(self.endpoint)

    def account(self, name: str) -> "Account":
        """A new user, who may do nothing yet."""
        made = Account.new(name)
        self._administer("create-user", "-a", made.access_key, "-s", made.secret_key, "-r", "user")
        return made

    def give(self, bucket: str, owner: "Account") -> None:
        """Let `owner`, and nobody else but root, do everything in `bucket`."""
        self._administer("change-bucket-owner", "-b", bucket, "-o", owner.access_key)

    def _administer(self, *command: str) -> None:
        keys = ("-a", self.access_key, "-s", self.secret_key, "--er", self.endpoint)
        told: list[str | Path] = [self._binary, "admin", *keys, *command]
        done = subprocess.run(told, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start the process and wait until it answers; on a new port the first time."""
        self._port = self._port or free_port()
        settings = {
            "ROOT_ACCESS_KEY": self.access_key,
            "ROOT_SECRET_KEY": self.secret_key,
            "VGW_PORT": f"127.0.0.1:{self._port}",
            "VGW_REGION": REGION,
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self._folder),
        }
        command: list[str | Path] = [
            self._binary,
            "--quiet",
            "--iam-dir",
            self._folder / "iam",
            "posix",
            self.data,
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=settings, cwd=self._folder, stdout=log, stderr=log
            )
        self._wait_until_ready()

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """End the process; `SIGKILL` is the power cut."""
        if self._process is not None:
            self._process.send_signal(with_signal)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def restart(self) -> None:
        """A power cut and the next start, with the same data, keys and port."""
        self.stop(signal.SIGKILL)
        self.start()

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _READY_WITHIN
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    said = (self._folder / "log").read_text(errors="replace")
                    pytest.fail(f"versitygw did not start:\n{said[-2000:]}")
                time.sleep(0.01)
            else:
                return
