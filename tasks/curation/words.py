"""Words of a text, compiled: the words that Gopher's and C4's rules count.

A word is what white space leaves together, less its punctuation, contractions apart: the words of
spaCy's rule-based tokenizer for English, by the same rules in one pass over the code points.
Languages that write without spaces get no words that mean anything.
"""

from infra.compiled import compiled_inner
from tasks.curation.addresses import is_address
from tasks.curation.affixes import infix_length, prefix_length, suffix_length
from tasks.curation.characters import IN_WORD, SPACE
from tasks.curation.word_rules import MOST_PARTS, Places, Rules, Text, find_special

_MOST_MERGED = 4


@compiled_inner
def split_words(
    text: Text, start: int, end: int, rules: Rules, starts: Places, ends: Places, scratch: Places
) -> int:
    """Write where the words of ``text[start:end]`` lie; returns how many there are.

    ``starts``, ``ends`` and ``scratch`` have room for ``end - start`` places each.
    """
    classes = rules.classes
    count = 0
    place = start
    while place < end:
        if classes[text[place]] & SPACE:
            place += 1
            continue
        first = place
        seen = 0
        while place < end:
            kind = classes[text[place]]
            if kind & SPACE:
                break
            seen |= kind
            place += 1
        if seen & IN_WORD:
            before = count
            count = _split_chunk(text, first, place, rules, starts, ends, count, scratch)
            if count - before > 1:
                count = _merge(text, rules, starts, ends, before, count)
        else:
            slot = find_special(text, first, place, rules)
            count = _emit(first, place, slot, rules, starts, ends, count)
    return count


@compiled_inner
def _split_chunk(
    text: Text,
    first: int,
    after: int,
    rules: Rules,
    starts: Places,
    ends: Places,
    count: int,
    scratch: Places,
) -> int:
    """Words of one run of characters between white space."""
    num_suffixes = 0
    slot = -1
    end = after
    while first < after:
        slot = find_special(text, first, after, rules)
        if slot >= 0:
            break
        prefix = prefix_length(text, first, after, rules)
        if prefix and first + prefix < after:
            slot = find_special(text, first + prefix, after, rules)
            if slot >= 0:
                count = _emit(first, first + prefix, -1, rules, starts, ends, count)
                first += prefix
                break
        suffix = suffix_length(text, first + prefix, after, rules)
        if suffix and after - suffix > first:
            slot = find_special(text, first, after - suffix, rules)
            if slot >= 0:
                after -= suffix
                scratch[num_suffixes] = after
                num_suffixes += 1
                break
        if not prefix and not suffix:
            break
        if prefix:
            count = _emit(first, first + prefix, -1, rules, starts, ends, count)
            first += prefix
        if suffix:
            after -= suffix
            scratch[num_suffixes] = after
            num_suffixes += 1
    if first < after:
        if slot >= 0:
            count = _emit(first, after, slot, rules, starts, ends, count)
        else:
            count = _split_inside(text, first, after, rules, starts, ends, count)
    for index in range(num_suffixes - 1, -1, -1):
        next_suffix = scratch[index - 1] if index else end
        count = _emit(scratch[index], next_suffix, -1, rules, starts, ends, count)
    return count


@compiled_inner
def _emit(
    first: int, after: int, slot: int, rules: Rules, starts: Places, ends: Places, count: int
) -> int:
    if slot < 0:
        starts[count], ends[count] = first, after
        return count + 1
    for part in range(MOST_PARTS):
        length = rules.special_parts[slot, part]
        if length:
            starts[count], ends[count] = first, first + length
            first += length
            count += 1
    return count


@compiled_inner
def _split_inside(
    text: Text, first: int, after: int, rules: Rules, starts: Places, ends: Places, count: int
) -> int:
    """Split at hyphens, slashes and the like between letters, unless it is an address."""
    start = first
    place = first
    is_checked = False
    while place < after:
        length = infix_length(text, first, place, after, rules)
        if not length:
            place += 1
            continue
        if not is_checked:
            is_checked = True
            if is_address(text, first, after, rules):
                break
        if place == first:
            place += length
            continue
        if place != start:
            starts[count], ends[count] = start, place
            count += 1
        starts[count], ends[count] = place, place + length
        count += 1
        place += length
        start = place
    if start < after:
        starts[count], ends[count] = start, after
        count += 1
    return count


@compiled_inner
def _merge(text: Text, rules: Rules, starts: Places, ends: Places, first: int, count: int) -> int:
    """Put together what was split but is a special word, such as an emoticon after a word."""
    place = first
    written = first
    blocked = -1
    while place < count:
        taken = 1
        for parts in range(min(_MOST_MERGED, count - place), 1, -1):
            slot = find_special(text, starts[place], ends[place + parts - 1], rules)
            if slot >= 0 and rules.special_parts[slot, 1] == 0:
                # Of special words that overlap in a chain, as in a line of apostrophes, one counts.
                if place > blocked:
                    taken = parts
                blocked = place + parts - 1
                break
        starts[written], ends[written] = starts[place], ends[place + taken - 1]
        written += 1
        if taken > 1:
            # Matches that begin inside the taken one are part of its chain.
            for inside in range(place + 1, place + taken):
                for parts in range(2, min(_MOST_MERGED, count - inside) + 1):
                    slot = find_special(text, starts[inside], ends[inside + parts - 1], rules)
                    if slot >= 0:
                        blocked = max(blocked, inside + parts - 1)
        place += taken
    return written
