"""The template engine of the pages: all text is escaped, and nothing may be left undefined."""

import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup


def environment() -> Environment:
    """Finds the templates that lie beside this module."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def data(value: float, form: str = ",") -> Markup:
    """A figure: rounded for the eye, whole in ``data-value``."""
    return Markup('<span data-value="{}">{}</span>').format(json.dumps(value), format(value, form))
