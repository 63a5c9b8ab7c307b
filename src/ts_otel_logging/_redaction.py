"""What must not leave the process: which keys and which texts are masked, and what stands in their place.

The rules are those of others, brought together: whole words at the end of a key, as in the OpenTelemetry Collector's
redaction processor (``blocked_key_patterns``), over the names of Sentry's ``EventScrubber`` and logfire's scrubbing;
the look of well-known tokens, as in gitleaks' rules. docs/redaction.md lists them.

Every pattern takes linear time: no quantifier holds another one without a bound, and what may be long is either tried
from one place of a run alone (a look-behind sees to that) or ends where the next try begins.
"""

from __future__ import annotations

import re
from functools import partial
from operator import is_
from typing import TYPE_CHECKING, Any, Callable, Final, NamedTuple, Optional

if TYPE_CHECKING:
    from collections.abc import Iterable

MASK: Final = "[REDACTED]"
"""What stands where a secret was."""

SECRET_NAMES: Final = (
    "access_key", "account_key", "api_key", "auth", "authorization", "bearer", "connect_sid", "cookie", "credential",
    "csrf", "encryption_key", "jsessionid", "jwt", "license_key", "master_key", "pass_phrase", "passcode",
    "passphrase", "passwd", "password", "phpsessid", "private_key", "pwd", "secret", "secret_key", "session_key",
    "sessionid", "signing_key", "ssh_key", "token", "xsrf",
)  # fmt: skip
"""A key that ends with one of these hides its value: in any case, with any separator, in camelCase or in one word."""

PASS_KINDS: Final = (
    "admin", "auth", "database", "db", "email", "ftp", "http", "imap", "keystore", "ldap", "login", "mail", "mongo",
    "mysql", "pg", "postgres", "proxy", "rabbitmq", "redis", "root", "sftp", "smtp", "sql", "ssh", "user",
)  # fmt: skip
"""What makes a ``…_pass`` a secret; any other one, ``forward_pass`` for instance, is one of something through it."""

TOKEN_KINDS: Final = (
    "access", "api", "auth", "bearer", "csrf", "id", "oauth", "refresh", "secret", "security", "session",
)  # fmt: skip
"""What makes ``…_tokens`` secrets; any other tokens, ``max_tokens`` for instance, are a language model's."""

MODEL_TOKENS: Final = (
    "additional", "bos", "cls", "decoder", "end", "eos", "image", "mask", "next", "pad", "sep", "special", "start",
    "stop", "unk",
)  # fmt: skip
"""What makes a ``…_token`` one of a language model, and no secret."""

QUALIFIERS: Final = ("base64", "b64", "hash", "header", "hex", "plain", "raw")
"""Words that may follow a name: ``password_hash`` is as secret."""

# Names that no other word ends with: they are found at the end of a word too, as in "dbpassword".
_WORD_ENDS: Final = ("password", "passwd", "passphrase", "secret", "apikey", "accesstoken", "authtoken")
_TOKEN: Final = "token"  # noqa: S105 - the word
_PASS: Final = "pass"  # noqa: S105 - as above
_CASE: Final = re.compile("(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NO_WORD: Final = re.compile("[^a-z0-9]+")


class TextPattern(NamedTuple):
    """A kind of secret that is known by its look.

    The regular expressions are such that Python and Java read them alike: the JVM's lines are masked by the same ones,
    see `jvm_pattern`. No ``}`` that closes nothing.

    Attributes:
        what: For people.
        at: A regular expression of no width that fails cheaply: where to try. Names are looked for backwards from the
            separator, because a text has many letters and few separators.
        pattern: What follows; its group is kept, the rest of the match is masked.
        needs: One character or two; every match has one of them. Empty if that cannot be said.
        hints: Texts; every match, with what is before it, in lower case has one of them. Most texts have none, which
            is cheap to find out.
    """

    what: str
    at: str
    pattern: str
    needs: str
    hints: tuple[str, ...]


# Between a name and its value: `name=`, `name: `, `"name": "`, `'name': b'`, and JSON within JSON. No comparison.
_SEPARATOR: Final = r"""(?:\\?["'])?[ \t]*(?:=>|[=:](?![=:]))[ \t]*(?:[bru]?\\?["'])?"""
# What was in quotes ends with them, escaped ones aside.
_QUOTED: Final = (
    r"""(?<=\\["'])[^"'\\\r\n]+|(?<=")[^"\\\r\n]*(?:\\.[^"\\\r\n]*){0,64}"""
    r"""|(?<=')[^'\\\r\n]*(?:\\.[^'\\\r\n]*){0,64}"""
)
# What was in brackets ends with them, even lines later; what has further brackets in it, with the line.
_NO_BRACKET: Final = r"""[^()\[\]\x7b\x7d"']*"""
_BRACKETED: Final = (
    rf"""(?<!["'])[(\[\x7b](?:{_NO_BRACKET}(?:(?:"[^"\\\r\n]*"|'[^'\\\r\n]*'){_NO_BRACKET}){{0,32}}[)\]\x7d]"""
    r"|[^\r\n]*)"
)
# Anything else ends with a word.
_VALUE: Final = (
    rf"(?:{_QUOTED}|{_BRACKETED}"
    r"""|(?<!["'])(?!(?:str|None|True|False|null|true|false)(?![A-Za-z0-9]))[^\s"',;&<>)\x7d]+)"""
)
# As few of these as can be: log4j tries each of them at every character.
_AT_SEPARATOR: Final = r"""(?=[\\"' \t=:%])"""
_AT_DASHES: Final = "(?=--)"
_AT_BLANK: Final = r"(?=[ \t])"
_AT_KEY: Final = "(?=[AGSadeghnprsxy])(?<![A-Za-z0-9])"
_KEY_KINDS: Final = (
    "access", "account", "api", "encryption", "license", "master", "private", "secret", "session", "signing", "ssh",
)  # fmt: skip


def _after(words: Iterable[str]) -> str:
    # One by one: a look-behind of Python's has one length.
    return "|".join(f"(?<={word})" for word in words)


def _after_names(plural: str) -> str:
    words = ["password", "passwd", "passphrase", "pass[ _.-]phrase", "passcode", "secret", "credential"]
    keys = [f"{kind}{gap}key{plural}" for kind in _KEY_KINDS for gap in ("", "[ _.-]")]
    tokens = [f"{kind}{gap}token{plural}" for kind in TOKEN_KINDS for gap in ("", "[ _.-]")]
    names = _after(f"{word}{plural}" for word in words)
    return f"{names}|(?<=key{plural})(?:{_after(keys)})|(?<=token{plural})(?:{_after(tokens)})"


_AFTER_SHORT_NAME: Final = "|".join(
    f"(?<={name})(?<![a-z]{name})" for name in ("pwd", "jwt", "[cx]srf", "sessionid", "phpsessid", "jsessionid")
)
# Not after a blank, nor alone but in quotes: there are many words "pass".
_AFTER_PASS: Final = "(?<=pass)(?:(?<=[\"']pass)|{})".format(
    _after(f"{kind}{gap}pass" for kind in PASS_KINDS for gap in ("", "[_.-]"))
)
_AFTER_NAME: Final = f"(?i:{_after_names('')}|{_AFTER_SHORT_NAME}|(?<=s)(?:{_after_names('s')}))"
_NO_MODEL_TOKEN: Final = "".join(rf"(?<!(?i:{word}[ _.-]token))" for word in MODEL_TOKENS)
# Of the header: `username="u", response="…"`, `Credential=…, SignedHeaders=a;b, Signature=…`.
_PARAMETER: Final = r"""[A-Za-z][A-Za-z0-9_-]{0,32}[ \t]*=[ \t]*(?:"[^"\r\n]*"?|[^\s"',]+)"""
# Words of a sentence ("Basic authentication") are none: a digit, or a capital letter after the first one.
_CREDENTIAL: Final = r"(?=[0-9]|[A-Za-z][a-z+/._~-]*[A-Z0-9=])[A-Za-z0-9._~+/-]{8,}=*"

TEXT_PATTERNS: Final = (
    TextPattern(
        "a private key's block, in PEM",
        _AT_DASHES,
        r"-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----"
        r"[\s\S]*?(?:-----END [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----|(?![\s\S]))",
        "-",
        ("-----begin ",),
    ),
    TextPattern(
        "the header `Authorization`, with its scheme",
        _AT_SEPARATOR,
        rf"""(?<=(?i:authorization))({_SEPARATOR})(?:{_QUOTED}|{_BRACKETED}|(?<!["'])"""
        r"(?:[A-Za-z][A-Za-z0-9-]{0,32}[ \t]+)?"
        rf"""(?:{_PARAMETER}(?:[ \t]*,[ \t]*{_PARAMETER}){{0,32}}|[^\s"',;]+))""",
        "=:",
        ("authorization",),
    ),
    TextPattern(
        "the headers `Cookie` and `Set-Cookie`, to the end of the line or of the quotes",
        _AT_SEPARATOR,
        rf"""(?:(?<=(?i:cookie))|(?<=(?i:cookies)))({_SEPARATOR})"""
        rf"""(?![ \tbru"'\\]{{0,8}}\[REDACTED)(?:{_BRACKETED}|[^"'\r\n]+)""",
        "=:",
        ("cookie",),
    ),
    TextPattern(
        '`name=value`, `name: value` and `"name": "value"`, for names like password, secret, api_key, access_token',
        _AT_SEPARATOR,
        f"{_AFTER_NAME}({_SEPARATOR}){_VALUE}",
        "=:",
        ("passw", "passc", "phrase", "pwd", "secret", "credential", "jwt", "srf", "sess", "key", "token"),
    ),
    TextPattern(
        "`db_pass=value` and their like, `'pass': 'value'`",
        _AT_SEPARATOR,
        f"(?i:{_AFTER_PASS})({_SEPARATOR}){_VALUE}",
        "=:",
        ("pass",),
    ),
    TextPattern(
        "`token=value`, when the value has eight characters or more and a digit",
        _AT_SEPARATOR,
        rf"(?<=(?i:token)){_NO_MODEL_TOKEN}({_SEPARATOR})(?=[A-Za-z_.+/=~-]{{0,64}}[0-9])[A-Za-z0-9_.+/=~-]{{8,}}",
        "=:",
        ("token",),
    ),
    TextPattern(
        "`password%3Dvalue`, for the same names",
        _AT_SEPARATOR,
        rf"""(?=\x253[ADad]){_AFTER_NAME}(\x253[ADad])[^\s"'&,;<>]+""",
        "%",
        ("%3d", "%3a"),
    ),
    TextPattern(
        "`--password value`, for the same names and `token`",
        _AT_DASHES,
        rf"""(--(?<![A-Za-z0-9-]--)[A-Za-z0-9_-]{{1,40}}(?:{_AFTER_NAME}|(?<=(?i:token)){_NO_MODEL_TOKEN})"""
        rf"""(?:[ \t]+|["'],[ \t]*(?=["']))["']?)(?!-){_VALUE}""",
        "-",
        ("--",),
    ),
    TextPattern(
        "the password in a URL, and what stands alone in its place in one of `http` or `https`",
        _AT_SEPARATOR,
        r"""(://(?:[^\s/:@"'<>]{0,256}:|(?<=(?i:http)://)|(?<=(?i:https)://)))[^\s/?#"'<>]+(?=@)""",
        "@",
        ("://",),
    ),
    TextPattern(
        "the signature or key in a URL's query: `sig`, `signature`, `X-Amz-Signature`, `key` and their like",
        "",
        r"([?&](?i:sig|signature|x-amz-signature|x-amz-security-token|x-goog-signature|key|auth|token)=)"
        r"""[^\s&#"'<>]+""",
        "?&",
        ("sig", "token=", "key=", "auth="),
    ),
    TextPattern(
        "credentials after `Bearer` or `Basic`",
        _AT_BLANK,
        rf"(?i:(?<=bearer)(?<![a-z]bearer)|(?<=basic)(?<![a-z]basic))([ \t]+){_CREDENTIAL}",
        "",
        ("bearer", "basic"),
    ),
    TextPattern(
        "JSON Web Tokens",
        _AT_KEY,
        r"(?<![_-])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,3}",
        ".",
        ("eyj",),
    ),
    TextPattern(
        "keys of AWS (`AKIA…`, `ASIA…`)",
        _AT_KEY,
        r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9])",
        "",
        ("akia", "asia", "abia", "acca"),
    ),
    TextPattern(
        "keys of Google (`AIza…`, `ya29.…`, `GOCSPX-…`)",
        _AT_KEY,
        r"(?:AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,}|GOCSPX-[A-Za-z0-9_-]{20,})",
        "",
        ("aiza", "ya29.", "gocspx-"),
    ),
    TextPattern(
        "tokens of GitHub and GitLab (`ghp_…`, `github_pat_…`, `glpat-…`)",
        _AT_KEY,
        r"(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_-]{20,})",
        "-_",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-"),
    ),
    TextPattern(
        "tokens of Slack (`xoxb-…`, `xapp-…`)",
        _AT_KEY,
        r"(?:xox[abeoprs]|xapp)-[A-Za-z0-9-]{10,}",
        "-",
        ("xox", "xapp-"),
    ),
    TextPattern(
        "keys of OpenAI, Anthropic and others that begin with `sk-`; of Stripe (`sk_live_…`)",
        _AT_KEY,
        r"(?:sk-(?=[A-Za-z_-]{0,40}[0-9])[A-Za-z0-9_-]{20,}|[rs]k_(?:live|test)_[A-Za-z0-9]{10,})",
        "-_",
        ("sk-", "k_live_", "k_test_"),
    ),
    TextPattern(
        "tokens of Hugging Face, PyPI, npm and logfire",
        _AT_KEY,
        r"(?:hf_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{50,}|npm_[A-Za-z0-9]{36}|pylf_v[0-9]{1,2}_[A-Za-z0-9_]{20,})",
        "-_",
        ("hf_", "pypi-", "npm_", "pylf_v"),
    ),
    TextPattern(
        "tokens of SendGrid and Databricks",
        _AT_KEY,
        r"(?:SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}|dapi[0-9a-f]{32})",
        "",
        ("sg.", "dapi"),
    ),
)
"""What is masked in messages, values, tracebacks and names of spans, wherever it stands."""


def jvm_pattern() -> tuple[str, str]:
    """Return the regular expression and the replacement by which log4j masks the JVM's lines, in Java's spelling."""
    places: dict[str, list[str]] = {}
    for row in TEXT_PATTERNS:
        places.setdefault(row.at, []).append(row.pattern)
    pattern = "|".join(f"{at}(?:{'|'.join(patterns)})" for at, patterns in places.items())
    groups = re.compile(pattern).groups
    return pattern, "".join(f"${number}" for number in range(1, groups + 1)) + MASK


EMAIL: Final = "email"
CARD: Final = "card"
OPTIONS: Final = {
    EMAIL: "e-mail addresses",
    CARD: "numbers of payment cards whose check digit is right (Luhn)",
}
"""Items of the setting that switch further patterns on."""

ITEM_ACCEPTED: Final = "a key's name (letters, digits, _ - .), /a regular expression/, email or card"

_EMAIL: Final = r"(?<![A-Za-z0-9_.+-])[A-Za-z0-9_.+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}"
# ISO/IEC 7812: 2 and 5 Mastercard, 3 American Express, Diners and JCB, 4 Visa, 6 Discover, Maestro and UnionPay.
_CARD: Final = r"(?<![A-Za-z0-9.-])[2-6](?:[ -]?[0-9]){12,18}(?![A-Za-z0-9-])"

_ITEM: Final = re.compile(r"\s*(/(?:[^/\\]|\\.)+/|[^,]*?)\s*(?:,|$)", re.DOTALL)
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")

MAX_CHARACTERS: Final = 65_536
"""Of a longer text the end is cut off, as the outputs do: nobody's request waits for megabytes to be looked through."""
# So much more is looked at and then thrown away: a secret that the cut goes through must not be half there.
_OVERLAP: Final = 1_024
_MAX_REMEMBERED: Final = 1_024
_REMEMBERED_CHARACTERS: Final = 256
_STACK_TRACE: Final = "Traceback (most recent call last):\n"
# Of one stack trace: looking through a line costs a third of what a whole trace costs.
_MAX_NEW_LINES: Final = 4
_HARMLESS: Final = frozenset({bool, type(None)})
_COLLECTIONS: Final = frozenset({str, list, tuple, dict})
_PAIR: Final = 2
_MAX_DEPTH: Final = 64


def split_items(text: str) -> tuple[str, ...]:
    """Return the items of a comma-separated list; a comma within ``/…/`` belongs to the regular expression."""
    return tuple(item for item in _ITEM.findall(text) if item)


def check_item(item: str) -> Optional[str]:
    """Return what is wrong with an item of the setting, or None.

    Args:
        item: A key's name, a regular expression in slashes, or one of `OPTIONS`.
    """
    if len(item) > 1 and item[0] == item[-1] == "/":
        try:
            pattern = re.compile(item[1:-1])
        except (re.error, OverflowError, RecursionError) as error:
            return f"a regular expression of Python's; this one has a mistake: {error}"
        return "a regular expression that matches no empty text" if pattern.search("") else None
    return None if _NAME.fullmatch(item) and any(_words(item)) else ITEM_ACCEPTED


class Redaction:
    """Masks secrets: by the names of keys, and by the look of texts. Immutable but for what it remembers.

    Args:
        items: What is masked besides the built-in lists: names of keys, regular expressions in slashes, and `OPTIONS`.

    Raises:
        ValueError: An item that cannot be used; see `check_item`.

    Attributes:
        items: What was given.
        clean: Texts that were looked through and have no secret: what is in here needs no second look.
        hidden: Whether the value of a key is masked, by key.
        sees_numbers: Whether a number alone may be masked.
    """

    __slots__ = ("_groups", "_hinting", "_hints", "clean", "hidden", "items", "sees_numbers")

    def __init__(self, items: Iterable[str] = ()) -> None:
        self.items = tuple(dict.fromkeys(items))
        for item in self.items:
            problem = check_item(item)
            if problem is not None:
                raise ValueError(f"{item!r}: accepted is {problem}")
        options = [item for item in self.items if item in OPTIONS]
        patterns = [item[1:-1] for item in self.items if item.startswith("/")]
        names = [_words(item) for item in self.items if item not in OPTIONS and not item.startswith("/")]
        self.clean: set[str] = set()
        self.hidden: dict[Any, bool] = _Hidden(names)
        self.sees_numbers = CARD in options
        compiled = [*_built_in(), *_added(names, patterns, options)]
        self._groups = _grouped(compiled)
        self._hints = tuple({hint for row in compiled for hint in row.hints})
        # Whether a line has one of them.
        self._hinting: dict[str, bool] = {}

    def tightened(self, items: Iterable[str]) -> Redaction:
        """Return one that masks these too; nothing can be taken away.

        Args:
            items: As for the class.

        Raises:
            ValueError: An item that cannot be used.
        """
        more = [item for item in items if item not in self.items]
        return Redaction((*self.items, *more)) if more else self

    def text(self, text: str) -> str:
        """Return a text with `MASK` in place of its secrets, of at most `MAX_CHARACTERS` and a mark of the cut."""
        if text in self.clean:
            return text
        length = len(text)
        head = text if length <= MAX_CHARACTERS else text[: MAX_CHARACTERS + _OVERLAP]
        result = head if head.startswith(_STACK_TRACE) and self._has_no_hint(head) else self._masked(head)
        if length > MAX_CHARACTERS:
            return result[: min(len(result) - _OVERLAP, MAX_CHARACTERS - 1)] + "…"
        if result == text:
            if length <= _REMEMBERED_CHARACTERS:
                if len(self.clean) >= _MAX_REMEMBERED:
                    self.clean.clear()
                self.clean.add(text)
            return text
        return result

    def _has_no_hint(self, stack_trace: str) -> bool:
        # Most of its lines have been in another one. No hint goes over a line's end.
        new = 0
        for line in stack_trace.split("\n"):
            has_hint = self._hinting.get(line)
            if has_hint is None:
                new += 1
                if new > _MAX_NEW_LINES or len(line) > _REMEMBERED_CHARACTERS:
                    return False
                if len(self._hinting) >= _MAX_REMEMBERED:
                    self._hinting.clear()
                has_hint = self._hinting[line] = any(map(line.lower().__contains__, self._hints))
            if has_hint:
                return False
        return True

    def _masked(self, text: str) -> str:
        lower = text.lower()
        for needed, other, patterns in self._groups:
            if needed not in text and (not other or other not in text):
                continue
            for hints, substitute in patterns:
                for hint in hints:
                    if hint in lower:
                        text = substitute(text)
                        break
        return text

    def value(self, value: Any, depth: int = 0) -> Any:
        """Return a value with its secrets masked, however deep; itself if there are none.

        Args:
            value: Made of dict, list, tuple, str, int, float, bool and None; anything else stays as it is.
            depth: How deep it lies.
        """
        kind = type(value)
        if kind is str:
            return self.text(value)
        if kind is dict:
            return self.mapping(value, depth)
        if kind is list or kind is tuple:
            return self._sequence(value, depth)
        if kind is int and self.sees_numbers:
            digits = str(value) if abs(value) < 10**20 else ""
            return value if self.text(digits) == digits else MASK
        return value

    def mapping(self, fields: dict[Any, Any], depth: int = 0) -> dict[Any, Any]:
        """Return fields with the secrets of their values masked; the same object if there are none."""
        if depth > _MAX_DEPTH:
            return {MASK: MASK}
        changed: Optional[dict[Any, Any]] = None
        hidden, clean = self.hidden, self.clean
        for key, value in fields.items():
            if hidden[key]:
                new = self.hide(value)
            elif type(value) is str and value in clean:
                continue
            else:
                new = self.value(value, depth + 1)
            if new is not value:
                changed = dict(fields) if changed is None else changed
                changed[key] = new
        return fields if changed is None else changed

    def _sequence(self, values: Any, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            return [MASK]
        # A header as ASGI and http.client have it: a pair of name and value.
        if len(values) == _PAIR and type(values[0]) is str and type(values[1]) is str and self.hidden[values[0]]:
            return type(values)((values[0], self.hide(values[1])))
        new = [self.value(value, depth + 1) for value in values]
        return values if all(map(is_, new, values)) else type(values)(new)

    @staticmethod
    def hide(value: Any) -> Any:
        """Return what stands for the value of a secret key: that there is none, yes and no are told."""
        kind = type(value)
        if kind in _HARMLESS or (kind in _COLLECTIONS and not value):
            return value
        # What was masked before stays a list, for its readers.
        is_masked = (kind is list or kind is tuple) and all(type(item) is str and item == MASK for item in value)
        return value if is_masked else MASK


class _Hidden(dict[Any, bool]):
    """Whether a key hides its value; worked out once for each."""

    def __init__(self, names: Iterable[tuple[str, ...]]) -> None:
        super().__init__()
        self._most_words = max(map(len, (*map(_words, SECRET_NAMES), *names)))
        # "sessionid" is a cookie's name, "session_id" what many use to tell conversations apart.
        separated = [words for words in map(_words, SECRET_NAMES) if len(words) > 1]
        self._words = frozenset(map("".join, (*map(_words, SECRET_NAMES), *names))) - {_TOKEN}
        self._joined = frozenset(map("".join, (*separated, *names)))

    def __missing__(self, key: Any) -> bool:
        if isinstance(key, bytes):
            name = key[-_REMEMBERED_CHARACTERS:].decode("latin-1")
        else:
            name = str.__str__(key)[-_REMEMBERED_CHARACTERS:] if isinstance(key, str) else ""
        is_hidden = self._is_hidden(_words(name))
        if len(name) < _REMEMBERED_CHARACTERS:
            if len(self) >= _MAX_REMEMBERED:
                self.clear()
            self[key] = is_hidden
        return is_hidden

    def _is_hidden(self, words: tuple[str, ...]) -> bool:
        while len(words) > 1 and words[-1] in _QUALIFIERS:
            words = words[:-1]
        if not words:
            return False
        last = words[-1]
        before = words[-2] if len(words) > 1 else ""
        if (last == _TOKEN and before not in MODEL_TOKENS) or (last == _TOKEN + "s" and before in TOKEN_KINDS):
            return True
        if last.endswith(_PASS) and (last[: -len(_PASS)] or before) in ("", *PASS_KINDS):
            return True
        if last.endswith(_WORD_ENDS) or (last[-1] == "s" and last[:-1].endswith(_WORD_ENDS)):
            return True
        for count in range(1, self._most_words + 1):
            joined = "".join(words[-count:])
            known = self._words if count == 1 else self._joined
            if joined in known or (joined[-1] == "s" and joined[:-1] in known):
                return True
        return False


def _words(name: str) -> tuple[str, ...]:
    words = (word.rstrip("0123456789") for word in _NO_WORD.split(_CASE.sub("_", name).lower()))
    return tuple(word for word in words if word)


_QUALIFIERS: Final = frozenset(_words("_".join(QUALIFIERS)))

_Substitute = Callable[[str], str]


class _Compiled(NamedTuple):
    needs: str
    hints: tuple[str, ...]
    substitute: _Substitute


def _built_in() -> list[_Compiled]:
    return [_Compiled(row.needs, row.hints, _masking(row.at + row.pattern)) for row in TEXT_PATTERNS]


def _masking(pattern: str, *, keeps_group: bool = True) -> _Substitute:
    # Compiled for the first text that has a hint of it: all of them take as long as a tenth of a worker's start.
    compiled: Optional[re.Pattern[str]] = None

    def substitute(text: str) -> str:
        nonlocal compiled
        if compiled is None:
            compiled = re.compile(pattern)
        return compiled.sub(rf"\1{MASK}" if compiled.groups and keeps_group else MASK, text)

    return substitute


def _added(names: list[tuple[str, ...]], patterns: list[str], options: list[str]) -> list[_Compiled]:
    added = [_Compiled("", ("",), _masking(pattern, keeps_group=False)) for pattern in patterns]
    if names:
        alternatives = "|".join("[ _.-]?".join(words) for words in names)
        pattern = rf"((?<![A-Za-z])(?i:{alternatives})s?{_SEPARATOR}){_VALUE}"
        added.append(_Compiled("=:", tuple(words[0] for words in names), _masking(pattern)))
    if EMAIL in options:
        added.append(_Compiled("@", ("@",), _masking(_EMAIL)))
    if CARD in options:
        added.append(_Compiled("", ("",), partial(re.compile(_CARD).sub, _mask_card)))
    return added


def _mask_card(match: re.Match[str]) -> str:
    digits = [int(character) for character in reversed(match.group()) if character.isdigit()]
    total = sum(digits[0::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return match.group() if total % 10 else MASK


def _grouped(compiled: list[_Compiled]) -> tuple[Any, ...]:
    groups: dict[str, list[Any]] = {}
    for row in compiled:
        groups.setdefault(row.needs, []).append(row[1:])
    return tuple((needs[:1], needs[1:], tuple(rows)) for needs, rows in groups.items())
