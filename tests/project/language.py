"""Words and phrases that have no place in technical text, and a scanner for them.

The list has terms that are wrong wherever they occur: persons as subjects, and idioms that need a
second reading. It cannot replace a reviewer.
"""

from __future__ import annotations

import ast
import re
from bisect import bisect_right
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

import attrs


@attrs.frozen
class Rule:
    """A pattern to avoid.

    :ivar advice: what to write instead.
    :ivar pages: whether the rule also applies to Markdown pages.
    """

    pattern: re.Pattern[str]
    advice: str
    pages: bool = True


def _rule(pattern: str, advice: str, *, pages: bool = True) -> Rule:
    spaced = pattern.replace(" ", " +")  # a line break and an indentation
    return Rule(re.compile(rf"\b(?:{spaced})\b", re.IGNORECASE), advice, pages)


RULES = (
    _rule("whoever|whomever|whom|nobody|somebody|everybody|anybody", "name the component"),
    _rule("who", "name the component: 'the client that'", pages=False),  # pages speak of people
    _rule("strangers?", "untrusted client"),
    _rule("aboard|asleep|awoke|riders?|rides?", "subscribed, paused, resumed, subscriber"),
    _rule("knocks?|guests?|hearsay|anybody's guess", "use the field's term"),
    _rule(r"(?<!there.)is none", "is invalid"),
    _rule("(?<!there.)is no (?:address|answer|number|file|URL|endpoint)", "is not a valid ..."),
    _rule("beside", "alongside, next to, in addition to"),
    _rule("behind (?:it|that|them|this|those|each|every|the first|the last)", "after"),
    _rule("(?:as|for) ever", "as before, always, indefinitely"),
    _rule("at the door", "rejected by the parser, or on acceptance"),
    _rule("in vain", "without a response, unsuccessfully"),
    _rule("(?:what|which|that|whatever) c(?:omes?|ame)(?! from)", "name the noun: the next bytes"),
    _rule("as (?:it|they) c(?:omes?|ame)", "as received, as it arrives"),
    _rule(r"of (?:ours|theirs)", "our ..., their ..."),
    _rule(r"of (?:upstream|a client|the client|Twisted)'s(?!\s+\w)", "upstream's ..."),
    _rule("(?:is|are) dear", "expensive"),
    _rule("patience", "timeout, deadline"),
    _rule("lets? loose|make believe", "use the field's term"),
    _rule("what (?:there is|is (?:to be )?(?:said|told|done|asked))", "name the noun"),
)  # fmt: skip

EMPTY_DOCSTRING = re.compile(
    r"(?:Begin|End|Does it|Says it|It does|It is gone|Gives them|Do it|All of (?:it|them)"
    r"|One of them|Where it stands|See the (?:table|module))\.?"
)
"""Docstrings that say nothing."""


STRING_OR_COMMENT = re.compile(
    r"""
    (?P<quotes> \"{3} | '{3} | ["'] ) (?: [^\\"']+ | \\. | (?!(?P=quotes)). )*+ (?P=quotes)
    | (?P<comment> \#[^\n]* )
    """,
    re.DOTALL | re.VERBOSE,
)
"""A string literal of Python 3.11, or a comment; ``tokenize`` takes ten times as long."""

SEPARATOR = "\0"
"""Between two texts; no rule matches it."""

SPACES = str.maketrans(dict.fromkeys("\t\n\r\f\v", " "))


@attrs.frozen
class Text:
    """A piece of prose.

    :ivar kind: ``comment``, ``docstring``, ``message``, ``name`` or ``page``.
    :ivar line: number of its first line.
    """

    kind: str
    line: int
    content: str


@attrs.frozen
class Finding:
    line: int
    words: str
    advice: str


def texts_of_python(source: str, messages: bool = False) -> Iterator[Text]:
    """Yield comments, docstrings and names of functions and classes.

    :param messages: yield all other string literals that contain a space as well.
    """
    line = 1
    end = 0
    for match in STRING_OR_COMMENT.finditer(source):
        if match["comment"] is not None:
            line += source.count("\n", end, match.start())
            end = match.start()
            yield Text("comment", line, match["comment"].lstrip("#"))
    nodes = list(ast.walk(ast.parse(source)))
    docstrings = set()
    for node in nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings.add(node.value)
            if isinstance(node.value.value, str):
                yield Text("docstring", node.lineno, node.value.value)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield Text("name", node.lineno, node.name.replace("_", " "))
    for node in nodes if messages else ():
        if isinstance(node, ast.Constant) and node not in docstrings:
            if isinstance(node.value, str) and " " in node.value:
                yield Text("message", node.lineno, node.value)


def texts_of_other(source: str, suffix: str) -> Iterator[Text]:
    """Yield a Markdown page, or the comments of a configuration file."""
    if suffix == ".md":
        yield Text("page", 1, source)
        return
    for number, line in enumerate(source.splitlines(), 1):
        if line.lstrip().startswith(("#", ";")):
            yield Text("comment", number, line)


def findings(texts: Iterator[Text]) -> Iterator[Finding]:
    """Yield every violation of :data:`RULES` in *texts*.

    The texts of a file are searched as one, because most are short: a search of each takes seconds.
    """
    texts_and_ends: list[tuple[int, Text]] = []
    end = 0
    for text in texts:
        if text.kind == "docstring" and EMPTY_DOCSTRING.fullmatch(text.content.strip()):
            yield Finding(text.line, text.content.strip(), "delete the docstring")
        end += len(text.content) + len(SEPARATOR)
        texts_and_ends.append((end, text))
    prose = SEPARATOR.join(_prose(text.content) for _, text in texts_and_ends)
    for rule in RULES:
        for match in rule.pattern.finditer(prose):
            index = bisect_right(texts_and_ends, match.start(), key=itemgetter(0))
            end, text = texts_and_ends[index]
            if text.kind != "page" or rule.pages:
                start = match.start() - (end - len(SEPARATOR) - len(text.content))
                line = text.line + text.content.count("\n", 0, start)
                yield Finding(line, match.group(), rule.advice)


def _prose(content: str) -> str:
    """Return *content* without code, in as many characters.

    Line breaks become spaces, so that a phrase may continue on the next line.
    """
    if "`" in content:
        content = re.sub(r"``[^`]*``|`[^`]*`", _blank, content)
    return content.translate(SPACES)


def _blank(match: re.Match[str]) -> str:
    """Return spaces of the same length, with the same line breaks."""
    return re.sub(r"[^\n]", " ", match.group())


def findings_in(path: Path, messages: bool = False) -> list[Finding]:
    """Return the violations in a file, in the order of its lines."""
    source = path.read_text("utf-8")
    if path.suffix == ".py":
        texts = texts_of_python(source, messages)
    else:
        texts = texts_of_other(source, path.suffix)
    return sorted(findings(texts), key=lambda finding: finding.line)
