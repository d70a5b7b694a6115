"""What goes in and out of the strict server's handlers, and the errors they raise."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from tests.servers.operations import Operation

XmlValue = str | int | bool | Sequence[tuple[str, "XmlValue"]]
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


@dataclass(frozen=True)
class Call:
    """One request, its body read in full. `headers` have lower-case names."""

    method: str
    target: str
    operation: Operation
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def header(self, name: str) -> str:
        """Return a header, or nothing."""
        return self.headers.get(name, "")

    @property
    def metadata(self) -> dict[str, str]:
        """The user metadata sent along."""
        return {name: value for name, value in self.headers.items() if name.startswith("x-amz-meta-")}

    @property
    def max_items(self) -> int:
        """The page size asked for in a listing, under whichever of its names."""
        asked = (self.query.get(name) for name in ("max-keys", "max-uploads", "max-parts"))
        return min(1000, next((int(value) for value in asked if value), 1000))


@dataclass(frozen=True)
class Answer:
    """One answer."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class S3Error(Exception):
    """An ordinary negative answer: no such key, a condition that does not hold, busy."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class RefusedError(S3Error):
    """The request breaks a rule of the provider: a client that does so is wrong."""


def not_implemented(what: str) -> RefusedError:
    """Return the refusal of something the provider does not have."""
    return RefusedError(501, "NotImplemented", what)


def md5_hex(data: bytes) -> str:
    """Return the MD5 of some bytes, as ETags have it."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def xml_answer(root: str, *content: tuple[str, XmlValue]) -> Answer:
    """Return an answer with an XML document; nested content is a sequence of pairs."""
    inner = "".join(_render(tag, value) for tag, value in content)
    document = f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="{_NAMESPACE}">{inner}</{root}>'
    return Answer(headers={"Content-Type": "application/xml"}, body=document.encode())


def error_answer(error: S3Error, key: str) -> Answer:
    """Return an error as S3 shows it."""
    inner = _render("Code", error.code) + _render("Message", str(error)) + _render("Key", key)
    document = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'
    headers = {"Content-Type": "application/xml", **error.headers}
    return Answer(error.status, headers, document.encode())


def read_xml(body: bytes) -> ElementTree.Element:
    """Parse a request's XML, whatever namespace it has."""
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise S3Error(400, "MalformedXML", str(error)) from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def _render(tag: str, value: XmlValue) -> str:
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, str | int):
        return f"<{tag}>{escape(str(value))}</{tag}>"
    return f"<{tag}>{''.join(_render(name, inner) for name, inner in value)}</{tag}>"
