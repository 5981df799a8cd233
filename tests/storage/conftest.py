"""The S3 server of these tests."""

from s3_fixtures import s3_server, s3_store

__all__ = ["s3_server", "s3_store"]
