"""Numbers of the configuration that make sense in some range only."""

from __future__ import annotations

from medseg.core.errors import ConfigError

_LAST_PORT = 65535


def require_above_zero(section: str, **values: float) -> None:
    """Raises a ConfigError for the first value that is not.

    Args:
        section: of the configuration, such as "executor".
        values: by the names of the options.
    """
    for name, value in values.items():
        if not value > 0:
            raise ConfigError(f"{section}.{name}", f"is {value}", "set it to more than 0")


def require_not_negative(section: str, **values: float) -> None:
    """Raises a ConfigError for the first value that is; arguments as of `require_above_zero`."""
    for name, value in values.items():
        if not value >= 0:
            raise ConfigError(f"{section}.{name}", f"is {value}", "set it to 0 or more")


def require_ports(section: str, **values: int | None) -> None:
    """Raises a ConfigError for the first value that is no port; None is one that is not used."""
    for name, value in values.items():
        if value is not None and not 0 <= value <= _LAST_PORT:
            raise ConfigError(f"{section}.{name}", f"is {value}", f"set it to 0 to {_LAST_PORT}")


def require_ae_titles(section: str, **values: str) -> None:
    """Raises a ConfigError for the first value that is no AE title (PS3.5 6.2: 16 characters)."""
    for name, value in values.items():
        is_plain = value.isascii() and value.isprintable() and "\\" not in value
        if not (is_plain and len(value.strip()) >= 1 and len(value) <= 16):
            raise ConfigError(
                f"{section}.{name}",
                f"is '{value}', which is no AE title",
                "use 1 to 16 letters, digits and signs other than a backslash",
            )
