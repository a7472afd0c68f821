"""What the documents say to type, and where they point: every command line is one that is taken, every link leads
somewhere, every file that is named is there.
"""

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from tproxy_cli.main import tproxy
from tproxy_cli.ui.console import Console

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "charts/**/*.md", "bpf/*.md", "tests/**/*.md")
    for path in ROOT.glob(pattern)
)
FENCE = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?:^|[|;&(] *|bin/|\b(?:sudo|kubectl) +|[A-Z_]=\S+ +)tproxy(?= +[a-z-])")
PLACEHOLDER = re.compile(r"[\[\]…]|\.\.\.")
SYNOPSIS = "docs/reference/cli.md"
"""Made of the commands themselves, with usage lines that nobody types."""


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What somebody has configured on this machine plays no part."""
    monkeypatch.setenv("TPROXY_CONFIG", str(tmp_path / "none"))


def text_of(document: str) -> str:
    return (ROOT / document).read_text()


def typed(document: str) -> Iterator[tuple[str, bool]]:
    """What is to be typed, and whether it is a whole command line, not only a mention of one."""
    text = text_of(document)
    for block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            prompt, found, command = line.partition("$ ")
            if found and re.fullmatch(r" *[\w/]*", prompt):
                yield command, True
    for mention in INLINE.findall(FENCE.sub("", text)):
        yield " ".join(mention.split()), False


def arguments(line: str) -> Iterator[list[str]]:
    """The arguments of each `tproxy` in a command line, up to what is another command."""
    for found in COMMAND.finditer(line):
        lexer = shlex.shlex(PLACEHOLDER.sub("", line[found.end() :]), posix=True, punctuation_chars=";|&()<>")
        lexer.whitespace_split, lexer.commenters = True, "#"
        yield list(itertools.takewhile(lambda word: word[0] not in ";|&()<>", lexer))


def take(words: list[str]) -> None:
    """Parse as the command line would, without running anything."""
    command: click.Command = tproxy
    parent, name = None, "tproxy"
    while True:
        context = command.make_context(name, list(words), parent=parent, obj=Console())
        if not isinstance(command, click.Group):
            return
        words = [*context._protected_args, *context.args]
        if not words:
            return
        found, child, words = command.resolve_command(context, words)
        assert child is not None
        command, parent, name = child, context, str(found)


@pytest.mark.parametrize("document", [each for each in DOCUMENTS if each != SYNOPSIS])
def test_command_lines_are_taken(document: str) -> None:
    wrong = []
    for line, whole in typed(document):
        for words in arguments(line):
            try:
                take(words)
            except (click.exceptions.Exit, click.exceptions.NoArgsIsHelpError):  # `--help`, `tproxy lab`
                pass
            except click.UsageError as error:
                missing = isinstance(error, click.MissingParameter) or "requires an argument" in str(error)
                if whole or not missing:
                    wrong.append(f"{line}: {error.format_message()}")
    assert wrong == []


def test_there_are_command_lines() -> None:
    """The test above would be content with none."""
    lines = [words for document in DOCUMENTS for line, whole in typed(document) if whole for words in arguments(line)]
    assert len(lines) > 60
    assert {words[0] for words in lines} >= {"connect", "intercept", "lab", "leave", "list", "node", "run", "status"}


@pytest.mark.parametrize("line", ["tproxy intercept web --prot 80", "tproxy lst", "tproxy list -o xml"])
def test_a_command_line_that_is_not_taken(line: str) -> None:
    [words] = arguments(line)
    with pytest.raises(click.UsageError):
        take(words)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    nowhere = []
    for link in LINK.findall(FENCE.sub("", text_of(document))):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (ROOT / document).parent / path if path else ROOT / document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            nowhere.append(link)
    assert nowhere == []


def anchors(document: Path) -> set[str]:
    """What headings are called in links, by GitHub's rules."""
    headings = re.findall(r"^#+ +(.+)$", FENCE.sub("", document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named_are_there(document: str) -> None:
    named = {
        word
        for mention in INLINE.findall(FENCE.sub("", text_of(document)))
        for word in mention.split()
        if re.fullmatch(r"(?:tests|bench|demo|docs|charts|tproxy|cli|node-daemon|bpf|\.ci|requirements)/[\w./-]+", word)
    }
    absent = sorted(word for word in named if not (ROOT / word.rstrip("/.")).exists())
    assert absent == []


def test_targets_of_make_that_are_named_are_there() -> None:
    targets = set(re.findall(r"^([a-z]\w*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        target
        for document in DOCUMENTS
        for line, _ in typed(document)
        for target in re.findall(r"(?:^|[ &])make ([a-z]+)\b", line)
    }
    assert named
    assert named <= targets
