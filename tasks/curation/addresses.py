"""Addresses of sites, pages and mailboxes, which are one word however they are punctuated."""

from infra.compiled import compiled_inner
from tasks.curation.characters import DIGIT, LETTER, LOWER
from tasks.curation.word_rules import Rules, Text


@compiled_inner
def is_address(text: Text, first: int, after: int, rules: Rules) -> bool:
    """Whether it is the address of a site, a page or a mailbox, which is one word."""
    if _is_host_on(text, first, after, rules):
        return True
    is_scheme = True
    for place in range(first, after):
        char = text[place]
        if char == ord("@") and place > first and _is_host_on(text, place + 1, after, rules):
            return True
        if is_scheme and char == ord(":") and place - first > 1 and place + 3 < after:
            has_slashes = text[place + 1] == ord("/") and text[place + 2] == ord("/")
            if has_slashes and _is_host_on(text, place + 3, after, rules):
                return True
        is_scheme = is_scheme and (
            rules.classes[char] & (LETTER | DIGIT) != 0
            or char == ord("+")
            or char == ord("-")
            or char == ord(".")
            or char == ord("_")
        )
    return False


@compiled_inner
def _is_host_on(text: Text, first: int, after: int, rules: Rules) -> bool:
    """Whether ``text[first:after]`` is a host, perhaps with a port and a path."""
    place = first
    last_dot = -1
    dots = digits = 0
    while place < after:
        char = text[place]
        if char == ord(".") and place > first and text[place - 1] != ord("."):
            is_label = text[place - 1] != ord("-") and text[place - 1] != ord("_")
            if not is_label or place + 1 >= after:
                return False
            last_dot = place
            dots += 1
        elif char == ord("-") or char == ord("_"):
            if place == first or text[place - 1] == ord("."):
                return False
        elif not (rules.classes[char] & (LETTER | DIGIT) or 0xA1 <= char <= 0xFFFF):
            break
        elif rules.classes[char] & DIGIT:
            digits += 1
        place += 1
    if last_dot < 0:
        return False
    is_number = dots == 3 and digits == place - first - dots
    if not is_number:
        if place - last_dot - 1 < 2:
            return False
        for letter in range(last_dot + 1, place):
            if not rules.classes[text[letter]] & LOWER:
                return False
    return _is_port_and_path(text, place, after, rules)


@compiled_inner
def _is_port_and_path(text: Text, place: int, after: int, rules: Rules) -> bool:
    if place < after and text[place] == ord(":"):
        port = place + 1
        while port < after and rules.classes[text[port]] & DIGIT:
            port += 1
        if not 3 <= port - place <= 6:
            return False
        place = port
    if place >= after:
        return True
    return text[place] == ord("/") or text[place] == ord("?") or text[place] == ord("#")
