"""The pages agree with the code, and their links lead somewhere."""

import ast
import io
import re
import tokenize
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from builder import moving_page
from builder.hub_listing import ENGINE_FLAGS
from builder.settings_page import BEGIN, END, GROUPS, PAGE, update
from handler.engine.flags.aliases import ALIASES
from handler.request.routes import ADMINISTRATION, GET, INSPECTION, POST, REFUSED
from handler.settings.environ import setting_variables
from tests.support.sdk_2 import DIFFERENCES

ROOT = Path(__file__).parents[2]
FOLDERS = ".runpod benchmarks builder docs handler monitoring runpod_local tests".split()
PAGES = sorted(
    {*ROOT.glob("*.md"), *(page for name in FOLDERS for page in (ROOT / name).rglob("*.md"))}
)
SOURCES = sorted(
    [ROOT / "Dockerfile", ROOT / "Makefile", *ROOT.glob("*.yaml")]
    + [
        file
        for folder in FOLDERS
        for file in (ROOT / folder).rglob("*")
        if file.suffix in (".py", ".yaml", ".yml")
    ]
)
PATH_IN_TEXT = re.compile(r"(?<![\w/.-])(?:tests|handler|docs)/[\w./-]*[\w/]")
TOP = tuple(f"{name}/" for name in (*FOLDERS, "requirements"))
MARKDOWN = MarkdownIt("commonmark").enable("table")
WEB = ("http:", "https:", "mailto:")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def page(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def links(path: Path) -> list[str]:
    """Return the targets of a page's links and images, those of the web left out."""
    inline = [child for token in MARKDOWN.parse(page(path)) for child in token.children or []]
    targets = [each.attrs.get("href", each.attrs.get("src")) for each in inline]
    return [str(target) for target in targets if target and not str(target).startswith(WEB)]


def comments(path: Path) -> str:
    """Return the comments of a file, and a Python module's docstrings."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return "\n".join(re.findall(r"(?:^|\s)#(.*)", text))
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    found = [token.string for token in tokens if token.type == tokenize.COMMENT]
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, documented))
    return "\n".join([*(ast.get_docstring(node) or "" for node in nodes), *found])


def packages(folder: str) -> set[str]:
    return {each.parent.name for each in (ROOT / folder).glob("*/__init__.py")}


@cache
def anchors(path: Path) -> set[str]:
    """Return the names that GitHub gives a page's headings."""
    tokens = MARKDOWN.parse(page(path))
    found: dict[str, int] = {}
    for token, following in pairwise(tokens):
        if token.type == "heading_open":
            title = "".join(child.content for child in following.children or [])
            slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            found[slug] = found.get(slug, -1) + 1
    return {f"{slug}-{n}" if n else slug for slug, last in found.items() for n in range(last + 1)}


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(path):
    broken = []
    for link in links(path):
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_a_broken_link_is_found(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("# One `two`\n\n[a](#one-two) ![b](gone.svg) `[c](code)` <https://x.example>\n")
    assert links(path) == ["#one-two", "gone.svg"]
    assert anchors(path) == {"one-two"}


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_path_that_a_page_names_exists(path):
    inline = [child for token in MARKDOWN.parse(page(path)) for child in token.children or []]
    spans = [each.content for each in inline if each.type == "code_inline"]
    named = [span for span in spans if span.startswith(TOP) and re.fullmatch(r"[\w./-]+", span)]
    named = [span for span in named if not re.search(r"\b(NAME|DEVICE)\b", span)]  # placeholders
    assert [each for each in named if not (ROOT / each).exists()] == []


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_every_path_that_a_comment_names_exists(path):
    named = PATH_IN_TEXT.findall(comments(path))
    assert [each for each in named if not (ROOT / each).exists()] == []


def test_paths_are_found_in_comments_and_docstrings_only(tmp_path):
    path = tmp_path / "module.py"
    path.write_text('"""See docs/gone.md."""\n\nx = "tests/not_this"  # as in tests/gone/\n')
    assert PATH_IN_TEXT.findall(comments(path)) == ["docs/gone.md", "tests/gone/"]
    path = tmp_path / "Makefile"
    path.write_text("# handler/gone.py, https://x.example/docs/page\nrun: tests/not_this\n")
    assert PATH_IN_TEXT.findall(comments(path)) == ["handler/gone.py"]


def test_the_folder_map_is_the_tree():
    block = page("README.md").split("## Folders")[1].split("## ")[0]
    top = re.findall(r"^([\w.]+)/", block, re.MULTILINE)
    assert [name for name in top if not (ROOT / name).is_dir()] == []
    inside_handler = re.findall(r"^  (\w+)/", block, re.MULTILINE)
    assert set(inside_handler) == packages("handler")
    inside_builder = re.findall(r"(\w+)/", block.split("\nbuilder/")[1].split("\n")[0])
    assert set(inside_builder) == packages("builder")


def test_every_page_of_docs_is_linked_from_the_readme():
    pages = {f"docs/{each.name}" for each in (ROOT / "docs").glob("*.md")}
    assert pages - set(links(ROOT / "README.md")) == set()


def test_the_readme_is_one_page():
    assert len(page("README.md").splitlines()) <= 160


def test_the_settings_page_is_what_make_docs_writes():
    assert update(page(str(PAGE))) == page(str(PAGE))


def test_the_page_on_moving_is_what_make_docs_writes():
    path = str(moving_page.PAGE)
    assert moving_page.update(page(path)) == page(path)


def test_a_settings_page_without_its_markers_is_refused():
    with pytest.raises(ValueError, match="must contain"):
        update(f"{END} {BEGIN}")


def test_a_setting_without_a_group_is_refused(monkeypatch):
    monkeypatch.delitem(GROUPS, "Engine")
    with pytest.raises(ValueError, match=r"\['ENGINE', 'ENGINE_ARGS', 'ENGINE_CONFIG_FILE'\]"):
        update(f"{BEGIN}{END}")


def test_the_readmes_settings_exist():
    table = page("README.md").split("## The settings to know first")[1].split("## ")[0]
    named = re.findall(r"^\| `([A-Z_]+)`", table, re.MULTILINE)
    known = {name for names in setting_variables().values() for name in names} | ENGINE_FLAGS.keys()
    assert len(named) == 10
    assert set(named) - known == set()


def test_the_table_of_both_engines_settings_is_the_codes():
    section = page("docs/settings.md").split("## Settings of both engines")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([A-Z_]+)` \| `?([A-Z_]+|not needed)`? \|$", section, re.MULTILINE)
    assert rows == [(alias.vllm, alias.sglang or "not needed") for alias in ALIASES]


def test_the_table_of_build_arguments_is_the_dockerfiles():
    rows = re.findall(r"^\| (`.+?`) \| .+ \| .+ \|$", page("docs/image.md"), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)}
    declared = re.findall(r"^ARG (.+)$", page("Dockerfile"), re.MULTILINE)
    arguments = {part.partition("=")[0] for line in declared for part in line.split()}
    assert named == arguments - {"VERSION"}


def test_the_clients_of_the_page_are_those_that_are_tested():
    shown = re.findall(r"^```(?:python|js)\n(.+?)```$", page("docs/clients.md"), re.M | re.S)
    tested = {each.read_text() for each in (ROOT / "tests/clients").iterdir() if each.is_file()}
    assert len(shown) == len(tested) == 7
    assert set(shown) == tested


def test_make_explains_its_targets():
    targets = re.search(r"^\.PHONY: (.+)$", page("Makefile"), re.MULTILINE)[1].split()
    explained = re.findall(r"^([a-z-]+):.*  ## .", page("Makefile"), re.MULTILINE)
    assert sorted(explained) == sorted(targets)


def test_the_version_is_one():
    version = re.search(r'^version = "(.+)"$', page("pyproject.toml"), re.MULTILINE)[1]
    assert f"VERSION={version}\n" in page("Dockerfile")
    assert re.search(r"^## (\S+)", page("CHANGELOG.md"), re.MULTILINE)[1] == version


def test_the_page_of_tests_names_the_engines_versions():
    images = dict(re.findall(r"^ARG (\w+)_IMAGE=.+:v([\d.]+)$", page("Dockerfile"), re.MULTILINE))
    tested = page("docs/tested.md")
    assert f"vLLM {images['VLLM']} " in tested
    assert f"SGLang {images['SGLANG']} " in tested


def test_the_page_of_jobs_has_each_route_and_each_refused_one_by_its_kind():
    """Administration and inspection are named as a kind: they are many."""
    text = page("docs/jobs.md")
    named = set(re.findall(r"`([^` ]+)`", text[text.index("## Routes") : text.index("## Media")]))
    assert {*POST, *GET, "models/ID", "responses/ID", "responses/ID/cancel"} <= named
    kinds = (ADMINISTRATION, INSPECTION)
    assert {path for path, reason in REFUSED.items() if reason not in kinds} <= named


def test_the_page_on_upgrades_names_each_test_that_differs_with_the_next_sdk():
    table = page("docs/upgrading-engines.md").partition("## The next Runpod SDK")[2]
    named = re.findall(r"^\| `(test_\w+)` \|", table, re.MULTILINE)
    assert sorted(named) == sorted(name.partition("::")[2] for name in DIFFERENCES)
