"""XML files in packages, and what Dublin Core says in them: https://www.dublincore.org"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from lxml import etree

from actors.documents.office.pieces import Properties

_DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"


def parsed_xml(xml: bytes) -> Any:
    """The root element. Raises XMLSyntaxError."""
    return etree.fromstring(xml, etree.XMLParser(resolve_entities=False, huge_tree=True))


def dublin_core(known: Any, author: str | None = None) -> Properties:
    """The properties in an element, of which the creator counts where no author is given."""

    def said(name: str) -> str:
        return known.findtext(f".//{_DUBLIN_CORE}{name}") or ""

    try:
        changed_at = datetime.fromisoformat(said("date"))
    except ValueError:
        changed_at = None
    return Properties(
        title=said("title"),
        author=author or said("creator"),
        subject=said("subject"),
        changed_at=changed_at,
    )
