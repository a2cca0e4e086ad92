"""How a database was made, as options of CREATE DATABASE for another one like it."""

from __future__ import annotations

from typing import Final

HAS_PROVIDERS: Final = 15
HAS_RULES: Final = 16
HAS_BUILTIN: Final = 17  # daticulocale is datlocale since


def like(major: int) -> str:
    """SQL for a PostgreSQL of this major version: of the database named $1 its owner, encoding and locale."""
    return f"""
        SELECT 'OWNER ' || quote_ident(pg_get_userbyid(datdba))
            || ' ENCODING ' || quote_literal(pg_encoding_to_char(encoding)) || {_provider(major)}
            || ' LC_COLLATE ' || quote_literal(datcollate) || ' LC_CTYPE ' || quote_literal(datctype)
        FROM pg_database WHERE datname = $1
    """


def _provider(major: int) -> str:
    """Before 15 a database is always the C library's."""
    if major < HAS_PROVIDERS:
        return "''"
    locale = "datlocale" if major >= HAS_BUILTIN else "daticulocale"
    rules = "|| coalesce(' ICU_RULES ' || quote_literal(daticurules), '')" if major >= HAS_RULES else ""
    builtin = "WHEN 'b' THEN ' LOCALE_PROVIDER builtin BUILTIN_LOCALE ' || quote_literal(datlocale)"
    return f"""CASE datlocprovider
        WHEN 'i' THEN ' LOCALE_PROVIDER icu ICU_LOCALE ' || quote_literal({locale}) {rules}
        {builtin if major >= HAS_BUILTIN else ""} ELSE ' LOCALE_PROVIDER libc' END"""
