"""The XML of S3's responses."""

from __future__ import annotations

from xml.etree import ElementTree


class BadXmlError(ValueError):
    """The text is no XML document, or one that declares entities."""


def parse_xml(body: bytes) -> ElementTree.Element:
    """Return the root of a document, its tags without namespaces.

    Raises
    ------
    BadXmlError
        When it cannot be parsed, or has a document type: entities can make a small text a large one.
    """
    if b"<!DOCTYPE" in body:
        raise BadXmlError("it has a document type")
    try:
        # In this encoding only, since in another one the check above would not find what it looks for.
        root = ElementTree.fromstring(body, ElementTree.XMLParser(encoding="utf-8"))
    except ElementTree.ParseError as error:
        raise BadXmlError(f"it is not XML ({error})") from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root
