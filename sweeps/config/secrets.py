"""Secrets: passwords and tokens in addresses, which are never written or printed, and where they come from again.

`***` stands in the place of a secret in whatever is recorded. A sweep that goes on takes it from the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.secret_names import (
    IN_PROSE,
    NUMBERS,
    decode,
    is_ambiguous,
    is_leaf,
    is_plain,
    is_secret,
    is_secret_parameter,
    is_secret_variable,
)

MARK = "***"
TRACKING_VARIABLE, STORAGE_VARIABLE = "MLFLOW_TRACKING_URI", "GATESWEEP_STORAGE"
SERVER_LOGINS = (("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"), ("MLFLOW_TRACKING_TOKEN",))
WEB, STORES = ("http", "https"), ("s3", "s3a", "gs", "gcs", "hdfs", "abfs", "abfss", "az", "file")
URL = re.compile(r"[A-Za-z][\w+.-]{0,30}://[^\s'\"<>`]+")
# A name and what stands between it and its value, which is between quotes, a list, a mapping, or one word.
SETTING = re.compile(r"(?<![\w.-])-{0,2}([A-Za-z_][\w.-]*)(['\"]?\s*[=:]\s*(?:got\s+)?['\"]?)(?!unknown key|missing)")
SETTING_VALUE = re.compile(
    r"(?<=')[^'\n]+(?='|$)|(?<=\")[^\"\n]+(?=\"|$)|\[[^\]\n]+\]|\{[^}\n]+\}|[^\s'\",;&})\]]+", re.MULTILINE
)
OPTION = re.compile(r"(?<![\w-])--?([A-Za-z][\w-]*)()['\"]?,?\s+['\"]?(?!-)")  # --password pw, '--password', 'pw'
USER_OPTION = re.compile(r"(?<!\S)(-u|--user|--proxy-user|-U)(\s+|=)([^\s:'\"]+):([^\s'\"]+)")  # of curl
LOGIN = re.compile(  # `user:password@host` without a scheme, or behind half of one, as `http:/` or `//`
    r"(?<![^'\"=\s(])((?:[A-Za-z][\w+.-]{0,30}:/|//)?[\w.+%-]+):(?!//|:)([^\s'\"]+)@(?=[\w\[])"
)
LITERAL = re.compile(  # in a program: `token = next(words)` is no secret, `token = "..."` is one
    r"(?<![\w.-])([A-Za-z_][\w.-]*)(['\"]?\s*(?::\s*[\w.\[\] |]+)?[=:]\s*[rbuRBU]?['\"])"
)
LITERAL_VALUE = re.compile(r"[^'\"\n]+")
HEADER = re.compile(r"\b(Basic(?=\s+[\w+/.=~-]{8})|Bearer)\s+[\w+/.=~-]+")
LITERAL_HEADER = re.compile(r"\b(Basic|Bearer)\s+(?=[A-Za-z+/.=~_-]*\d)[\w+/.=~-]{8,}")  # `Basic attributes` is none
ADDRESS = re.compile(r"(?:[A-Za-z][\w+.-]*:)?[A-Za-z][\w+.-]*://")  # also jdbc:mysql://
CHAIN = re.compile(r"::(?=[A-Za-z][\w+.-]*://)")  # between the addresses that fsspec opens through one another
PAIRS = re.compile(r"([?&;#])")
WEBHOOK = re.compile(r"(hooks\.[^/]+/(?:services/)?|[^/]+/(?:api/)?webhooks?/)[^?#]+")  # whose path is the secret
PATH_TOKEN = re.compile(r"(?<=/)(?=[\w:-]*[a-z])(?=[\w:-]*[A-Z])(?=[\w:-]*\d)[\w:-]{20,}(?=/|$)|(?<=/)\*\*\*(?=/|$)")
LONG = 8  # characters: a secret that is replaced also within words
MIN_LENGTH = 4  # of a secret that is looked for in messages: a shorter one would take letters out of words

_known: set[str] = set()
_addresses: dict[str, str] = {}  # that this process has redacted, by what was left of them


def redact(text: str) -> str:
    """Return a message without secrets: those of addresses, settings and headers in it, and those known by now."""
    learn_secrets(text)
    text = URL.sub(lambda match: redact_address(match[0]), text)
    text = LOGIN.sub(lambda match: f"{match[1]}:{MARK}@", text)
    text = USER_OPTION.sub(lambda match: f"{match[1]}{match[2]}{match[3]}:{MARK}", text)
    text = _mark_values(text, OPTION, SETTING_VALUE)
    return _redact(_mark_values(text, SETTING, SETTING_VALUE), HEADER)


def redact_source(text: str) -> str:
    """Return the source of a program without secrets. Of settings, only texts between quotes are taken for secrets.

    The addresses in it teach nothing about messages: many are examples.
    """
    text = URL.sub(lambda match: _rewrite(match[0], MARK), text)
    return _redact(_mark_values(text, LITERAL, LITERAL_VALUE), LITERAL_HEADER)


def redact_values(values: Any, key: str = "", above: str = "") -> Any:
    """Return nested plain values, of a configuration, without the secrets of addresses and of keys like `password`.

    All that is below such a key, which is then `above`, is secret, also numbers and lists. A leaf of a search space is
    not: its values are hyperparameters.
    """
    if is_plain(key) and values and not isinstance(values, bool) and not is_leaf(values):
        return MARK
    above = "" if is_leaf(values) else key if is_ambiguous(key) else above
    if isinstance(values, Mapping):
        return {name: redact_values(value, str(name), above) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [redact_values(value, key, above) for value in values]
    if above and is_secret(above, values):
        return MARK
    return redact_address(values) if isinstance(values, str) else values


def redact_address(address: str) -> str:
    """Return an address with `***` in the place of its secrets; any other text as it is."""
    redacted = _rewrite(address, MARK)
    if redacted != address:
        _addresses[redacted] = address
        learn_secrets(address)
    return redacted


def bare_address(address: str) -> str:
    """Return an address without its secrets, e.g. for a link, and to compare two of them."""
    return _rewrite(address, "")


def is_redacted(values: Any) -> bool:
    """Return True if nested plain values hold a `***` of `redact_values`."""
    if isinstance(values, Mapping):
        return any(is_redacted(value) for value in values.values())
    if isinstance(values, list | tuple):
        return any(is_redacted(value) for value in values)
    if not isinstance(values, str) or MARK not in values:
        return False
    is_address = "://" in values or f":{MARK}@" in values
    return values == MARK or (is_address and any(f"{before}{MARK}" in values for before in (":", "/", "=")))


def learn_secrets(text: str) -> None:
    """Remember the secrets of the addresses in a text, so that messages which quote a part of one lose them too."""
    whole = [text] if ADDRESS.match(text) or LOGIN.match(text) else []  # a password in it may hold a space
    for address in (*whole, *URL.findall(text)):
        for secret in _secrets(address):
            _known.update(form for form in (secret, unquote(secret)) if len(form) >= MIN_LENGTH and form != MARK)


def learn_typed(values: Any, key: str = "", above: str = "") -> None:
    """Remember the secrets in nested values that a person typed: those of addresses, and all below a key of secrets."""
    above = "" if is_leaf(values) else key if is_plain(key) or (is_ambiguous(key) and not is_plain(above)) else above
    if isinstance(values, Mapping):
        for name, value in values.items():
            learn_typed(value, str(name), above)
    elif isinstance(values, list | tuple):
        for value in values:
            learn_typed(value, key, above)
    elif is_secret(above, values):
        if len(str(values)) >= MIN_LENGTH and values != MARK:
            _known.add(str(values))
    elif isinstance(values, str):
        learn_secrets(values)


def with_secrets(key: str, address: str | None, variable: str) -> str | None:
    """Return the address under `key` with the secrets that its record has not, from the environment `variable`.

    A process that has recorded the address knows it still. A web address also goes with MLflow's own variables, a
    PostgreSQL one with PGPASSWORD. Raises InputError, which names what to set, where there are none.
    """
    if address is None or not is_redacted(address):
        return address
    if address in _addresses:
        return _addresses[address]
    given, bare = os.environ.get(variable, ""), bare_address(address)
    if given and bare_address(given) == bare:
        return given
    is_server = address.startswith(WEB) and variable == TRACKING_VARIABLE
    if is_server and any(all(os.environ.get(name) for name in names) for names in SERVER_LOGINS):
        return bare
    if address.startswith("postgresql") and os.environ.get("PGPASSWORD"):
        return bare
    login = f"{' and '.join(SERVER_LOGINS[0])}, or " if is_server else ""
    raise InputError(
        f"{key}: got {address!r}, whose password is not recorded: set {login}{variable} to the address with it, "
        f"or type {key}=... again"
    )


def _redact(text: str, headers: re.Pattern[str]) -> str:
    text = headers.sub(lambda match: f"{match[1]} {MARK}", text)
    for secret in sorted(_known | _environment_secrets(), key=len, reverse=True):
        if len(secret) >= LONG:
            text = text.replace(secret, MARK)
        elif secret in text:  # as a word of its own: it may be a part of others
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MARK, text)
    return text


def _mark_values(text: str, names: re.Pattern[str], values: re.Pattern[str]) -> str:
    """Return a text with `***` in the place of each value behind the name of a secret."""
    kept, end = "", 0
    for match in names.finditer(text):
        value = values.match(text, match.end())
        if match.start() < end or not value or not _is_secret_setting(match, value[0]):
            continue
        kept, end = f"{kept}{text[end : match.end()]}{MARK}", value.end()
    return kept + text[end:]


def _is_secret_setting(match: re.Match[str], value: str) -> bool:
    """Return True for `name=value` in a text, unless both may be prose, as in `no session: it ended`."""
    name, between = match[1], match[2]
    is_prose = name.lower().rstrip("s") in IN_PROSE and between.startswith(":") and between[1:].isspace()
    return is_secret(name, value) and not is_prose


def _rewrite(address: str, mark: str) -> str:
    return "::".join(_rewrite_one(part, mark) for part in CHAIN.split(address))


def _rewrite_one(address: str, mark: str) -> str:
    scheme, separator, rest = address.partition("://")
    if not separator or not ADDRESS.match(address):
        login = LOGIN.match(address)
        return f"{login[1]}{':' if mark else ''}{mark}@{address[login.end() :]}" if login else address
    user, at, place = _split_user(scheme, rest)
    name, colon, _ = user.partition(":")
    if at and scheme.lower() in WEB:  # a token may stand in the place of the name
        user, at = mark, at if mark else ""
    elif colon:
        user = f"{name}:{mark}" if mark else name
    path, *parts = PAIRS.split(place)
    if scheme.lower() in WEB:
        path = PATH_TOKEN.sub(mark, WEBHOOK.sub(lambda match: f"{match[1]}{mark}", path))
    begun = False  # the query: its first pair that is left stands behind `?`
    for sign, pair in zip(parts[::2], parts[1::2], strict=True):
        if _is_secret_pair(pair):
            if not mark:
                continue
            pair = f"{pair.partition('=')[0]}={mark}"
        path += ("?" if sign == "&" and not begun else sign) + pair
        begun = begun or sign in "?&"
    return f"{scheme}://{user}{at}{path}"


def _is_secret_pair(pair: str) -> bool:
    """Return True for a `name=value` of a query with a secret's name, or with a secret in its value."""
    name, equals, value = pair.partition("=")
    if not equals or not value:
        return False
    decoded = decode(value)
    is_address = _rewrite(decoded, MARK) != decoded
    is_setting = _mark_values(decoded, SETTING, SETTING_VALUE) != decoded
    return value == MARK or is_address or is_setting or is_secret_parameter(decode(name), decoded)


def _split_user(scheme: str, rest: str) -> tuple[str, str, str]:
    """Split `user:password@place`; the first two are empty where there is no user.

    A password may hold `/`, `?` and `#`, which do not belong there: SQLAlchemy takes them.
    """
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in host:
        end = host.rindex("@")
    else:
        _, colon, port = host.partition(":")
        is_port = port.isdecimal() and scheme.lower() in (*WEB, *STORES)
        end = rest.find("@") if colon and port and not is_port else -1
    return (rest[:end], "@", rest[end + 1 :]) if end >= 0 else ("", "", rest)


def _secrets(address: str) -> Iterator[str]:
    """Yield the secrets of an address, as they are written in it."""
    first, *others = CHAIN.split(address)
    for other in others:
        yield from _secrets(other)
    scheme, separator, rest = first.partition("://")
    if not separator:
        login, at, _ = first.rpartition("@")
        yield login.rpartition(":")[2] if at else ""
        return
    user, _, place = _split_user(scheme, rest)
    name, _, password = user.partition(":")
    yield password
    if scheme.lower() in WEB and not password:
        yield name
    for pair in PAIRS.split(place)[2::2]:
        if _is_secret_pair(pair):
            value = pair.partition("=")[2]
            yield from (value, decoded := decode(value), *_setting_values(decoded), *_secrets(decoded))
    if scheme.lower() in WEB and (match := WEBHOOK.match(place)):
        yield match[0][len(match[1]) :]
    yield from (match[0] for match in PATH_TOKEN.finditer(place) if scheme.lower() in WEB)


def _setting_values(text: str) -> Iterator[str]:
    """Yield the secrets in settings, as `PWD=secret;UID=x`."""
    for match in SETTING.finditer(text):
        value = SETTING_VALUE.match(text, match.end())
        if value and _is_secret_setting(match, value[0]):
            yield value[0]


def _environment_secrets() -> set[str]:
    """Return the secrets in environment variables: values under a secret's name, and passwords within addresses."""
    found: set[str] = set()
    for name, value in os.environ.items():
        if (
            is_secret_variable(name)
            and not NUMBERS.fullmatch(value)
            and not (value[:1] == "/" and Path(value).exists())
        ):
            found |= {value, *_setting_values(value)}
        if "@" in value or "://" in value:
            found.update(_secrets(value))
    return {secret for secret in found if len(secret) >= MIN_LENGTH and secret != MARK}
