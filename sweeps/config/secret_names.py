"""Names under which secrets stand: keys of a configuration, query parameters, options, environment variables.

A name is read as words, `dbPassword` and `DB_PASSWORD` as db and password; the last one says what the value is. Under a
plain name, as password, every value is a secret. Under an ambiguous one, as token or pass, a text is one, and a number
or a truth value is a hyperparameter: `keys: 8`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from urllib.parse import unquote_plus

PLAIN = {
    *("password", "passwd", "passphrase", "passcode", "pwd", "secret", "credential", "authorization", "apikey"),
    *("accesskey", "secretkey", "privatekey", "accountkey", "authtoken", "accesstoken", "sessiontoken", "sessionid"),
}
AMBIGUOUS = {"pass", "pw", "auth", "cred", "login", "token", "key", "session", "bearer", "pat", "jwt", "cookie", "otp"}
KEY_OF_SECRETS = {"api", "access", "account", "secret", "private", "encryption", "signing", "storage", "ssh", "master"}
# `pad_token` is no secret: tokens are words to language models, which count them; nor is `sort_key`, nor `query_key`.
MODEL_WORDS = re.compile(
    "pad|bos|eos|sos|unk|oov|mask|sep|cls|class|special|start|begin|end|stop|blank|image|word|sub|new|first|last|next"
    "|prev|prefix|suffix|context|query|label|target|source|input|output|dropped|register|max|min|num|n|per|each|sort"
    "|group|primary|foreign|cache|dict|batch|loss|state|value|attention|feature|index|time|metric|column|text|data"
)
QUALIFIERS = {"old", "new", "value", "prod", "dev", "base64", "b64"}  # behind the word that counts: `password_old`
IN_PROSE = {"pass", "session", "login"}  # words of messages: `no login: a, b`
NO_VARIABLES = {"PWD", "OLDPWD"}  # the working folder
OF_QUERIES = re.compile(
    r"pass(?!file|ive|es?$|rate)|pwd|secret|token|credential|signature|session"
    r"|(?:api|access|account|private)[_-]?key|^(?:key|sig|code|sas|loginhint)$",
    re.IGNORECASE,
)
_NUMBER = r"(?:[+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:e[+-]?\d+)?|true|false|null|none)"
NUMBERS = re.compile(rf"[\[(]?{_NUMBER}(?:\s*,\s*{_NUMBER})*[\])]?", re.IGNORECASE)  # one, or a list
DECODINGS = 5  # times that a value may be encoded


@cache
def is_plain(name: str) -> bool:
    """Return True for a name under which every value is a secret: `db_password`, `api_keys`."""
    words = _words(name)
    if not words:
        return False
    last = words[-1]
    compound = len(words) > 1 and ((last == "key" and words[-2] in KEY_OF_SECRETS) or words[-2:] == _CONNECTION)
    return compound or any(last.endswith(word) for word in PLAIN)


@cache
def is_ambiguous(name: str) -> bool:
    """Return True for a name under which texts are secrets: `hf_token`, `auth`, `smtp_login`."""
    words = _words(name)
    if words and words[-1].endswith("token"):  # GITHUBTOKEN has no sign between its words
        words[-1:] = [*filter(None, [words[-1].removesuffix("token")]), "token"]
    if words in ([], ["key"]):  # a key alone is the name of a column or of an entry
        return False
    return words[-1] in AMBIGUOUS and not (len(words) > 1 and MODEL_WORDS.fullmatch(words[-2]))


def is_secret(name: str, value: object) -> bool:
    """Return True if one plain `value` under `name` is a secret."""
    if value is None or isinstance(value, bool) or value == "":
        return False
    return is_plain(name) or (is_ambiguous(name) and isinstance(value, str) and not NUMBERS.fullmatch(value))


def is_secret_parameter(name: str, value: str) -> bool:
    """Return True if the value of a query parameter is a secret. No parameter is a hyperparameter."""
    return bool(OF_QUERIES.search(name)) or is_secret(name, value)


def is_secret_variable(name: str) -> bool:
    """Return True if the value of an environment variable is a secret. A session or a login there is a user's."""
    if name in NO_VARIABLES or not (words := _words(name)):
        return False
    return is_plain(name) or (is_ambiguous(name) and words[-1] not in ("session", "login"))


def is_leaf(values: object) -> bool:
    """Return True for a leaf of a search space, whose values are hyperparameters."""
    return isinstance(values, Mapping) and isinstance(values.get("type"), str) and bool({"low", "choices"} & {*values})


def decode(text: str) -> str:
    """Return a part of a query as it was before it was encoded, once or more often."""
    for _ in range(DECODINGS):
        if (plain := unquote_plus(text)) == text:
            break
        text = plain
    return text


_CONNECTION = ["connection", "string"]


def _words(name: str) -> list[str]:
    """Return the words of the last part of a dotted name, in lower case and singular, without what qualifies them."""
    last = name.rpartition(".")[2]
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", last)
    words = [_singular(part.lower()) for part in parts]
    while len(words) > 1 and (words[-1].isdigit() or words[-1] in QUALIFIERS):
        words.pop()
    return words


def _singular(word: str) -> str:
    if word == "passes":
        return word  # passes are counted
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
