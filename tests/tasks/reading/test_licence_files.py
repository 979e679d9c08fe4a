from pathlib import Path

import pytest

from tasks.reading.licence_files import LicenceFiles, licence_of

ISC = (
    "Permission to use, copy, modify, and/or distribute this software for any purpose with or "
    "without fee is hereby granted"
)
MIT = "Permission is hereby granted, free of charge, to any person obtaining\n  a copy"
BSD = "Redistribution and use in source and binary forms, with or without modification"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("                 Apache License\n           Version 2.0, January 2004", "Apache-2.0"),
        (f"{MIT} ... this permission notice shall be included in all copies", "MIT"),
        (MIT, "MIT-0"),
        (f"{ISC}, provided that ... this permission notice appear in all copies.", "ISC"),
        (ISC, "0BSD"),
        (BSD, "BSD-2-Clause"),
        (f"{BSD} ... Neither the name of the holder", "BSD-3-Clause"),
        (f"{BSD} ... 3. All advertising materials must ... Neither the name", ""),
        ("GNU GENERAL PUBLIC LICENSE\n   Version 2, June 1991", "GPL-2.0-only"),
        ("GNU GENERAL PUBLIC LICENSE\n   Version 3, 29 June 2007", "GPL-3.0-only"),
        ("GNU AFFERO GENERAL PUBLIC LICENSE\n Version 3, 19 November 2007", "AGPL-3.0-only"),
        ("Creative Commons Attribution-ShareAlike 4.0 International", "CC-BY-SA-4.0"),
        ("Creative Commons Attribution 4.0 International", "CC-BY-4.0"),
        ("SPDX-License-Identifier: MIT OR Apache-2.0\n", "MIT OR Apache-2.0"),
        ("All rights reserved.", ""),
        ("", ""),
    ],
)
def test_a_licence_is_told_by_its_wording(text: str, expected: str) -> None:
    assert licence_of(text) == expected


def test_the_nearest_file_counts_up_to_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (tmp_path / "LICENSE").write_text(MIT)
    licences = LicenceFiles(root)
    assert licences.nearest(root / "a" / "b") == ""
    (root / "LICENCE.md").write_text(BSD)
    (root / "a" / "licence.py").write_text(ISC)
    licences = LicenceFiles(root)
    assert licences.nearest(root / "a" / "b") == "BSD-2-Clause"


def test_two_licences_of_one_directory_both_hold_but_the_lesser_one_needs_the_other(
    tmp_path: Path,
) -> None:
    (tmp_path / "LICENSE-APACHE").write_text("Apache License, Version 2.0")
    (tmp_path / "LICENSE-0BSD").write_text(ISC)
    assert LicenceFiles(tmp_path).nearest(tmp_path) == "0BSD AND Apache-2.0"
    lesser = tmp_path / "lesser"
    lesser.mkdir()
    (lesser / "COPYING").write_text("GNU General Public License Version 3, 29 June 2007")
    (lesser / "COPYING.LESSER").write_text(
        "GNU Lesser General Public License Version 3 29 June 2007"
    )
    assert LicenceFiles(tmp_path).nearest(lesser) == "LGPL-3.0-only"
