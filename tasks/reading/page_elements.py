"""Elements of a page that are found in time proportional to the page, for trafilatura's parser.

libxml2 compares each node that one step of a path finds with all that it found before from other
places. Two of trafilatura's paths are looked up here by others that find the same in one step.
"""

from typing import Any

from lxml.etree import ElementDefaultClassLookup
from lxml.html import HtmlElement
from trafilatura.utils import HTML_PARSER

IN_ONE_STEP = {
    "//p//text()": "/descendant::text()[ancestor::p]",
    ".//code|.//p|.//quote|.//table|.//div[contains(@class, 'w3-code')]": (
        "descendant::*[self::code or self::p or self::quote or self::table"
        " or self::div[contains(@class, 'w3-code')]]"
    ),
}
"""By trafilatura's path, one that finds the same."""


class PageElement(HtmlElement):
    """An element whose paths are looked up in one step."""

    def xpath(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """What ``path`` finds from here, as lxml has it."""
        return super().xpath(IN_ONE_STEP.get(path, path), *args, **kwargs)


# Of one class whatever their name: lxml.html would ask Python for the class of each element each
# time that it is looked at.
_LOOKUP = ElementDefaultClassLookup(element=PageElement)


def use_fast_elements() -> None:
    """Make trafilatura's parser build trees of these; to be called any number of times."""
    HTML_PARSER.set_element_class_lookup(_LOOKUP)
