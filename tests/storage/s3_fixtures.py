"""An S3 server for the tests of this folder, whose conftest.py takes its fixtures from here."""

import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from universal_ray.storage.store import Store

BUCKET = "studies"


class S3Server:
    """A server process with one bucket; `url` is where it listens."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a user sets to reach it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",  # the client's own patience is not what is tested
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }

    def start(self) -> None:
        """Starts it, with an empty bucket, on the port it had before, if any."""
        script = str(Path(__file__).with_name("s3_server.py"))
        self._process = subprocess.Popen(
            [sys.executable, script, str(self.port), BUCKET], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            raise RuntimeError("The S3 server ended before it listened.")
        self.port = int(line)

    def stop(self) -> None:
        with self._process as process:
            process.kill()

    def fail(self, kind: str, requests: int) -> None:
        """Lets the next `requests` requests fail in a way that s3_server.py names."""
        self._tell(f"fail/{kind}/{requests}")

    def counts(self) -> tuple[int, int]:
        """Requests since the start and how many of them failed."""
        requests, failures = self._tell("count").split()
        return int(requests), int(failures)

    def _tell(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.url}/-/{path}", timeout=30) as answer:
            return answer.read().decode()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One for the session, named by the environment as a user would."""
    from s3fs import S3FileSystem

    server = S3Server()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server
        S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def s3_store(s3_server) -> Store:
    """An empty place on that server."""
    return Store(f"s3://{BUCKET}/{uuid.uuid4().hex}")
