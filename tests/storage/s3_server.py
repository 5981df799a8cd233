"""An S3 server for tests that can be told to fail: `python s3_server.py PORT BUCKET`.

moto's S3, one request at a time, since moto itself does not make a conditional put atomic among
its threads. Prints its port once it listens. GET /-/fail/KIND/N makes the next N requests fail,
GET /-/count tells how many requests came and how many of them failed.
"""

import logging
import socket
import sys

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
from werkzeug.test import Client
from werkzeug.wrappers import Response

ERROR = "<Error><Code>{}</Code><Message>{}</Message></Error>"
ANSWERS = {
    "throttled": (503, "SlowDown", "Please reduce your request rate."),
    "broken": (500, "InternalError", "We encountered an internal error. Please try again."),
    "conflict": (409, "ConditionalRequestConflict", "A conflicting operation is under way."),
    "denied": (403, "AccessDenied", "Access Denied"),
}


class Failing:
    """A WSGI application in front of another, which it lets fail."""

    def __init__(self, application):
        self.application = application
        self.kind, self.left, self.requests, self.failures = "", 0, 0, 0

    def __call__(self, environ, start_response):
        path = environ["PATH_INFO"].split("/")
        if path[1] == "-":
            if path[2] == "fail":
                self.kind, self.left = path[3], int(path[4])
            text = f"{self.requests} {self.failures}"
            return Response(text)(environ, start_response)
        self.requests += 1
        if not self.left:
            return self.application(environ, start_response)
        self.left -= 1
        self.failures += 1
        # The body has to be taken, or the client sees a lost line whatever the answer.
        if self.kind != "unanswered":
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if self.kind in ANSWERS:
            status, code, message = ANSWERS[self.kind]
            answer = Response(ERROR.format(code, message), status, mimetype="application/xml")
            return answer(environ, start_response)
        if self.kind == "unanswered":  # done all the same
            list(self.application(environ, lambda *_: None))
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError  # which the server takes for a client that left


def main(port: int, bucket: str) -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = DomainDispatcherApplication(create_backend_app)
    Client(application).put(f"/{bucket}")
    server = make_server("127.0.0.1", port, Failing(application))
    print(server.port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
