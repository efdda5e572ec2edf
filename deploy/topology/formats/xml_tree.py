"""XML bytes to a tree of elements that know their lines, safely and within limits (pure).

No document type, hence no entity and nothing from outside the file, is ever read (defusedxml).
"""

from __future__ import annotations

import xml.sax
from dataclasses import dataclass, field
from typing import Any, Final
from xml.sax.handler import ContentHandler

import defusedxml
import defusedxml.sax

from deploy.topology.problems import Place, Problem
from deploy.topology.reader import Document

MAX_BYTES: Final = 32 << 20
MAX_ELEMENTS: Final = 400_000
MAX_DEPTH: Final = 20
MAX_TEXT: Final = 10_000
"""Characters between the tags of one element."""


@dataclass(slots=True, kw_only=True)
class Element:
    """One element; the tag is without its namespace, attributes of a namespace are left out."""

    tag: str
    attributes: dict[str, str]
    place: Place
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def __str__(self) -> str:
        return f"<{self.tag}>"


class _GiveUp(Exception):
    """The file is too much; the problem says how."""


class _TreeBuilder(ContentHandler):
    """The elements of a file as they come, refusing to grow without bounds."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self._file = file
        self._open: list[Element] = []
        self._left = MAX_ELEMENTS
        self._at: Any = None
        self.root: Element | None = None

    def setDocumentLocator(self, locator: Any) -> None:  # noqa: N802 - the name is SAX's
        self._at = locator

    def here(self) -> Place:
        line, column = self._at.getLineNumber(), self._at.getColumnNumber()
        return Place(file=self._file, line=line, column=column + 1)

    def startElement(self, name: str, attrs: Any) -> None:  # noqa: N802
        self._left -= 1
        if self._left < 0:
            raise _GiveUp(f"more than {MAX_ELEMENTS} elements")
        if len(self._open) >= MAX_DEPTH:
            raise _GiveUp(f"elements nested more than {MAX_DEPTH} deep")
        plain = (key for key in attrs.keys() if ":" not in key and key != "xmlns")  # noqa: SIM118
        attributes = {key: attrs[key] for key in plain}
        element = Element(tag=_local(name), attributes=attributes, place=self.here())
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)

    def endElement(self, name: str) -> None:  # noqa: N802
        self._open.pop()

    def characters(self, content: str) -> None:
        if not self._open or content.isspace():
            return
        element = self._open[-1]
        element.text += content
        if len(element.text) > MAX_TEXT:
            raise _GiveUp(f"more than {MAX_TEXT} characters of text in {element}")


def _local(name: str) -> str:
    return name.rpartition(":")[2]


def parse(raw: bytes, document: Document) -> Element | None:
    """The root element, or None with the reason in the document's `problems`."""
    if len(raw) > MAX_BYTES:
        document.report((), f"the file has more than {MAX_BYTES >> 20} MiB")
        return None
    if not raw.strip():
        document.report((), "empty: there is nothing in it")
        return None
    builder = _TreeBuilder(document.file)
    parser = defusedxml.sax.make_parser()
    parser.forbid_dtd = True
    parser.setContentHandler(builder)

    def wrong(message: str, hint: str = "") -> None:
        line, column = parser.getLineNumber(), parser.getColumnNumber()
        place = Place(file=document.file, line=line, column=None if column is None else column + 1)
        document.problems.append(Problem.at(place, (), message, hint))

    try:
        builder.setDocumentLocator(parser)
        parser.feed(raw)  # at once: in pieces, one long value would be scanned again for each
        parser.close()
    except defusedxml.DefusedXmlException:
        hint = "take the <!DOCTYPE ...> out, and write what its entities stand for"
        wrong("a document type (DTD) and its entities are not read", hint)
    except _GiveUp as reason:
        wrong(str(reason))
    except xml.sax.SAXParseException as error:
        wrong(f"not valid XML: {error.getMessage()}")
    except (LookupError, ValueError) as error:  # an encoding that does not exist, or is not that
        wrong(f"not valid XML: {error}")
    else:
        return builder.root
    return None
