"""Which packages a host needs from us: requirements followed from package to package, less what the host brings.

A package that the host brings is not followed further: what it needs came with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from nemo_bt.errors import UserError

RequirementsOf = Callable[[Sequence[str]], Mapping[str, Sequence[str]]]
"""Names of packages -> the Requires-Dist lines of each."""
Asked = dict[str, list[tuple[str, Requirement]]]
"""Name of a package -> who asks for it, and for what."""


@dataclass(frozen=True)
class Host:
    """What a host has, and what is asked for it. Names may have *."""

    versions: Mapping[str, str]
    """Of its packages, by their names."""
    keep: Collection[str] = ()
    """Packages of which the host's is used whatever its version is."""
    without: Collection[str] = ()
    """Packages that it does without, and without what only they need."""


@dataclass(frozen=True)
class Closure:
    """What is packed, and what is left to the host."""

    packed: tuple[str, ...]
    """Names, sorted."""
    left: Mapping[str, str]
    """Name -> version that the host has."""
    not_satisfied: tuple[str, ...]
    """Packages left to the host whose version is not what was asked for, a line each."""


def target_environment(python: str) -> dict[str, str]:
    """Values of environment markers on a Linux host of x86-64.

    Args:
        python: like 3.12.
    """
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "platform_release": "",
        "platform_version": "",
        "extra": "",
    }


def locked_versions(text: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Versions in a lock file that hold in an environment: lines `name==version ; marker`."""
    versions: dict[str, str] = {}
    for line in text.splitlines():
        if not line or line.lstrip().startswith("#"):
            continue
        requirement = Requirement(line)
        if _holds(requirement.marker, environment, ""):
            (specifier,) = requirement.specifier
            versions[canonicalize_name(requirement.name)] = specifier.version
    return versions


def host_versions(text: str, said: str) -> dict[str, str]:
    """What a host has, from `pip list --format=freeze`.

    Args:
        text: lines name==version.
        said: where it is from.

    Raises:
        UserError: a line is another.
    """
    versions: dict[str, str] = {}
    for line in filter(None, (line.strip() for line in text.splitlines())):
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            requirement = None
        operators = [specifier.operator for specifier in requirement.specifier] if requirement else []
        if requirement is None or operators != ["=="]:
            raise UserError(
                f"{said}: expected lines name==version, got {line!r}. Write it on the host, with "
                "python3 -m pip list --format=freeze."
            )
        (specifier,) = requirement.specifier
        versions[canonicalize_name(requirement.name)] = specifier.version
    return versions


def closure(
    roots: Sequence[str],
    requirements_of: RequirementsOf,
    host: Host,
    environment: Mapping[str, str],
) -> Closure:
    """Follow requirements until nothing new is asked for.

    Args:
        roots: requirements to begin with.
        requirements_of: reads metadata; called with as many names at once as are known.
        host: that the packages are for.
        environment: its markers, from `target_environment`.

    Returns:
        Packages that the host lacks, or has in a version that somebody does not take.
    """
    known: dict[str, Sequence[str]] = {}
    packed: set[str] = set()
    while True:
        asked = _asked(roots, requirements_of, known, host, packed, environment)
        left = [name for name in asked if name in host.versions and name not in packed]
        refused = {name: _refusals(name, host.versions[name], asked[name]) for name in left}
        more = {name for name in left if refused[name] and not _is_among(name, host.keep)}
        if not more:
            break
        packed |= more
    lines = [line for name in sorted(left) for line in refused[name]]
    return Closure(
        tuple(sorted(asked.keys() - set(left))), {name: host.versions[name] for name in sorted(left)}, tuple(lines)
    )


def _is_among(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _refusals(name: str, version: str, asked: Sequence[tuple[str, Requirement]]) -> list[str]:
    lines = {
        f"{name} {version}: {asker} asks for {requirement.specifier}"
        for asker, requirement in asked
        if not requirement.specifier.contains(version, prereleases=True)
    }
    return sorted(lines)


def _asked(
    roots: Sequence[str],
    requirements_of: RequirementsOf,
    known: dict[str, Sequence[str]],
    host: Host,
    packed: Collection[str],
    environment: Mapping[str, str],
) -> Asked:
    """Breadth first, a wave of packages at a time. Of a package that is left, only extras are followed."""
    asked: Asked = {}
    seen: set[tuple[str, str]] = set()
    wave = [("nemo_bt", Requirement(root)) for root in roots]
    while wave:
        new: list[tuple[str, str]] = []
        for asker, requirement in wave:
            name = canonicalize_name(requirement.name)
            if _is_among(name, host.without):
                continue
            asked.setdefault(name, []).append((asker, requirement))
            extras = (
                {*requirement.extras} if name in host.versions and name not in packed else {"", *requirement.extras}
            )
            new += [(name, extra) for extra in sorted(extras) if (name, extra) not in seen]
            seen |= {(name, extra) for extra in extras}
        unknown = sorted({name for name, _ in new} - known.keys())
        known.update(requirements_of(unknown) if unknown else {})
        lines = [(name, extra, Requirement(line)) for name, extra in dict.fromkeys(new) for line in known[name]]
        wave = [(name, asks) for name, extra, asks in lines if _holds(asks.marker, environment, extra)]
    return asked


def _holds(marker: Marker | None, environment: Mapping[str, str], extra: str) -> bool:
    """Is a requirement one of an extra, or of the package itself where the extra is ""?"""
    if marker is None:
        return not extra
    without = marker.evaluate({**environment, "extra": ""})
    return without if not extra else not without and marker.evaluate({**environment, "extra": extra})
