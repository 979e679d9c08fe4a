from importlib.metadata import PackageNotFoundError

import pytest

from infra.versions import (
    SECURITY_FLOORS,
    UnsafeVersionError,
    check_security_floors,
    code_version,
)


def test_what_is_installed_here_is_above_the_floors() -> None:
    check_security_floors()


@pytest.mark.parametrize(
    ("package", "below"), [("torch", "2.9.1+cpu"), ("ray", "2.51.2"), ("mlflow", "3.10.0rc0")]
)
def test_a_package_below_its_floor_is_refused_by_name(package: str, below: str) -> None:
    def installed(name: str) -> str:
        return below if name == package else "99.0"

    with pytest.raises(UnsafeVersionError, match=rf"{package} {below.replace('+', '.')} \(needs"):
        check_security_floors(installed)


def test_a_floor_itself_and_local_builds_pass() -> None:
    def installed(name: str) -> str:
        return ".".join(map(str, SECURITY_FLOORS[name])) + ".0+cpu"

    check_security_floors(installed)


def test_an_absent_package_passes() -> None:
    def installed(name: str) -> str:
        raise PackageNotFoundError(name)

    check_security_floors(installed)


def test_the_code_version_names_release_and_sources() -> None:
    release, _, sources = code_version().partition("+")
    assert release
    assert len(sources) == 12
    assert code_version() == code_version()
