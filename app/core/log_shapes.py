"""What secrets and people's addresses look like in a text.

Whoever can write into a log must not be able to make a search of it slow, so no search goes over the same characters
again and again: what may repeat without end is taken for good (`++`) and belongs to the match, or can begin at one
place only (a look behind); the rest is bounded by a few characters.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    # Looked for where one of the words, in small letters, is in the text.
    Shape = tuple[tuple[str, ...], re.Pattern[str], str | Callable[[re.Match[str]], str]]

SECRET: Final = "[secret]"  # noqa: S105 - what stands in for one
PERSONAL: Final = "[personal]"

# Of `token_count` or `password_file`: about a secret, without it.
NOT_ABOUT: Final = (
    r"(?![\w-]{0,32}_(?:count|left|file|dir|folder|path|length|size|limit|max|min|ttl|age|type|name)(?![\w-]))"
)
SECRET_WORDS: Final = (
    r"(?:passw|(?<![a-z])pass(?![a-z])|pwd|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|"
    rf"credential|signature){NOT_ABOUT}"
)
_ERROR_CLASS: Final = r"(?-i:[A-Z][A-Za-z]{0,48}Error:\s)"  # what follows is its text
PERSONAL_WORDS: Final = r"e_?mail|(?:reporter|author|assignee|display|full|user|first|last)_?name"

_IS: Final = r"\\{0,3}[\"']?\s{0,4}[:=]\s{0,4}(?:b(?=[\"']))?"
_WORD: Final = r"[^\s\"',;&)}]++"
_QUOTED: Final = (  # without the closing mark
    r"\"[^\"\\\n]*+(?:\\.[^\"\\\n]*+)*+|'[^'\\\n]*+(?:\\.[^'\\\n]*+)*+|\\{1,3}\"[^\"\\\n]*+|\\{1,3}'[^'\\\n]*+"
)
_MARK: Final = re.compile(r"\\*[\"']")
_SCHEME: Final = re.compile(rf"(?ai)((?:bearer|basic)\s{{1,4}}){_WORD}")
_ONLY_SET: Final = r"(?:authorization|cookie|signature|[?&]sig)(?=[\w-]{0,32}\s{0,4}=)"  # in prose they mean little
_LOCAL: Final = r"[^\s@<>\"',;:()\[\]{}=/\\]"
_DOMAIN: Final = r"[A-Za-z0-9.\u0080-\U0010ffff-]+\.[A-Za-z\u0080-\U0010ffff][A-Za-z0-9\u0080-\U0010ffff-]{1,62}"
_AT: Final = r"%(?:25)?40"  # as paths carry it, once or twice encoded
_BASE64: Final = r"[A-Za-z0-9_-]"
_UNIT: Final = r"[A-Za-z0-9.-]*\.(?:service|socket|timer|target|mount|slice|scope)(?![A-Za-z0-9-]|\.[A-Za-z0-9])"


def _in_place(value: str, instead: str) -> str:
    """Its quotation mark stays: what follows is still told from it."""
    mark = _MARK.match(value)
    return f"{mark[0] if mark else ''}{instead}"


def _without_password(match: re.Match[str]) -> str:
    password, _, rest = match[2].rpartition("@")
    return f"{match[1]}{SECRET}@{rest}" if password else match[0]


def _without_credentials(match: re.Match[str]) -> str:
    scheme = _SCHEME.match(match[2])
    if scheme is None:
        return match[1] + _in_place(match[2], SECRET)
    return f"{match[1]}{scheme[1]}{SECRET}{match[2][scheme.end() :]}"


def _without_value(match: re.Match[str]) -> str:
    return match[1] + _in_place(match[2], SECRET)


def _without_person(match: re.Match[str]) -> str:
    return match[1] + _in_place(match[2], PERSONAL)


# asyncpg's and pydantic's texts quote rows and input.
QUOTES: Final[tuple[Shape, ...]] = (
    (("detail:",), re.compile(r"DETAIL:[^\n]*+(?:\n(?!HINT:|\n)[^\n]*+)*+"), f"DETAIL: {PERSONAL}"),
    (
        ("failing row contains (",),
        re.compile(r"(?ai)(failing row contains )\([^\n]*+(?:\n(?!HINT:|\n)[^\n]*+)*+"),
        rf"\1{PERSONAL}",
    ),
    (
        ("input_value=",),
        re.compile(r"input_value=[^,]*+(?:,(?! input_type=)[^,]*+)*+"),
        f"input_value={PERSONAL}",
    ),
)
SHAPES: Final[tuple[Shape, ...]] = (
    *QUOTES,
    (("://",), re.compile(r"(://[^\s:/@]*+:)([^\s\"'<>]++)"), _without_password),
    (
        ("authorization", "cookie"),
        re.compile(
            rf"(?ai)((?:authorization|cookie)\\{{0,3}}[\"']?\s{{0,4}}:\s{{0,4}}(?:b(?=[\"']))?)({_QUOTED}|[^\r\n]++)"
        ),
        _without_credentials,
    ),
    (
        ("pass", "pwd", "passphrase", "secret", "token", "key", "credential", "sig", "authorization", "cookie"),
        re.compile(
            rf"(?ai)((?:{_ONLY_SET}|(?!signature|{_ERROR_CLASS}){SECRET_WORDS})[\w-]{{0,32}}+{_IS}"
            rf"(?:(?:bearer|basic)\s{{1,4}})?)({_QUOTED}|{_WORD})"
        ),
        _without_value,
    ),
    (("mail", "name"), re.compile(rf"(?ai)((?:{PERSONAL_WORDS}){_IS})({_QUOTED}|{_WORD})"), _without_person),
    (("bearer",), re.compile(r"(?ai)\b(bearer\s{1,4})[A-Za-z0-9._~+/=-]{8,}+"), rf"\1{SECRET}"),
    (("gvk_",), re.compile(r"gvk_([0-9a-f]{12})_[A-Za-z0-9_-]++"), rf"gvk_\1_{SECRET}"),
    (("whsec_",), re.compile(r"whsec_[A-Za-z0-9+/=_-]++"), f"whsec_{SECRET}"),
    (  # a JSON Web Token: its claims can name a person, its signature proves who asks
        ("eyj",),
        re.compile(rf"(?:(?<!{_BASE64})|(?<=%[0-9A-Fa-f]{{2}}))eyJ{_BASE64}++\.eyJ{_BASE64}++(?:\.{_BASE64}*+)?"),
        SECRET,
    ),
    (("akia", "asia"), re.compile(r"(?:AKIA|ASIA)[A-Z0-9]{16}"), SECRET),
    (
        ("hooks.slack.com/",),
        re.compile(r"(?ai)(hooks\.slack\.com/(?:services|workflows|triggers)/)[^\s\"'<>]++"),
        rf"\1{SECRET}",
    ),
    (("age-secret",), re.compile(r"AGE-SECRET-KEY-[A-Z0-9-]++"), SECRET),
    (("@",), re.compile(rf"(?<!{_LOCAL}){_LOCAL}++@(?!{_UNIT}){_DOMAIN}"), PERSONAL),
    # Up to its delimiter: one may follow another.
    (
        ("%40", "%2540"),
        re.compile(rf"(?<!{_LOCAL})(?:(?!{_AT}){_LOCAL})++{_AT}(?={_LOCAL}*?\.[^\W\d_]{{2}}){_LOCAL}++"),
        PERSONAL,
    ),
)
