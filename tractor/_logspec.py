"""Logging specs: which sub-package logs at which level, in one string."""

from __future__ import annotations

import logging

LogSpec = str | bool


def level_value(level: str | int) -> int:
    """Return the number of a level given as a number or as a name in any case.

    Raises:
        ValueError: for a name that is not registered with `logging`.
    """
    if isinstance(level, int):
        return level

    value = logging.getLevelName(level.upper())
    if not isinstance(value, int):
        known = sorted(logging.getLevelNamesMapping())
        raise ValueError(f'Unknown log level {level!r}, use a number or one of {known}')

    return value


def _parse_pair(part: str, pkg_name: str) -> tuple[str, str]:
    name, _, level = (token.strip() for token in part.partition(':'))
    if not name or not level:
        raise ValueError(
            f'Cannot read {part!r} in a logging spec: give either one level for all of '
            f'{pkg_name!r}, or only `<sub-package>:<level>` pairs, separated by commas'
        )
    if pkg_name in name.split('.'):
        raise ValueError(
            f'Names in a logging spec are relative to {pkg_name!r}: leave it out of {name!r}'
        )
    level_value(level)
    return name, level


def parse_logspec(
    logspec: LogSpec,
    default_level: str | None = None,
    pkg_name: str = 'tractor',
) -> dict[str | None, str]:
    """Read which sub-package is to log at which level.

    Args:
        logspec: `False` for nothing, `True` for everything at `default_level` (else `'cancel'`),
            one level name for everything, or pairs such as `'devx.debug:runtime,trionics:cancel'`.
        default_level: level name for `True`.
        pkg_name: the package that names in the spec are relative to.

    Returns:
        Level names by sub-package; the key `None` stands for the package itself.

    Raises:
        ValueError: for bare levels mixed with pairs, an unknown level, a name that contains
            `pkg_name`, or any other type.
    """
    match logspec:
        case False:
            return {}
        case True:
            return {None: default_level or 'cancel'}
        case str() if ':' in logspec:
            return dict(_parse_pair(part, pkg_name) for part in logspec.split(','))
        case str():
            level_value(logspec.strip())
            return {None: logspec.strip()}
        case _:
            raise ValueError(f'A logging spec is a `str` or a `bool`, not {logspec!r}')
