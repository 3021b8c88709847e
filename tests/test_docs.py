"""The documentation agrees with the code: links, anchors, settings, metrics, bodies, units, the version."""

import json
import re
import runpy

import pytest

from ggserve import __version__ as VERSION
from ggserve.app import create_app
from ggserve.settings import Settings
from tests.conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


ENGLISH, RUSSIAN = ((ROOT / name).read_text("utf-8") for name in ("README.md", "README.ru.md"))
SEARCHES = (
    *("tool calling", "JSON schema", "context length", "GPU layers", "API key", "systemd", "CORS", "Open WebUI"),
    *("prompt cache", "timeout"),
)


def without_code(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def code_blocks(text):
    """Return the code blocks without their comments, which are translated."""
    return [re.sub(r" *# .*", "", block) for block in re.findall(r"^```.*?^```$", text, re.DOTALL | re.MULTILINE)]


def headings(text):
    return re.findall(r"^(#+) (.+)$", without_code(text), re.MULTILINE)


def anchors(page):
    """Return the anchors that GitHub gives the headings of a page."""
    titles = (title.lower().replace(" ", "-") for _, title in headings(page.read_text("utf-8")))
    return {re.sub(r"[^\w-]", "", title) for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_anchors_resolve(page):
    for name, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", without_code(page.read_text("utf-8"))):
        target = page.parent / name if name else page
        assert target.exists(), name
        assert not anchor or anchor in anchors(target), f"{name}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    named = re.findall(
        r"\b(?:tests|ggserve|bench|deploy|docs)/[\w./-]+\.(?:py|md|yaml|json|service|toml)\b", page.read_text("utf-8")
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("term", SEARCHES)
def test_a_search_for_the_usual_term_finds_a_page(term):
    words = re.compile(term.replace(" ", r"[\s_]+"), re.IGNORECASE)
    assert any(words.search(page.read_text("utf-8")) for page in ROOT.glob("docs/*.md"))


def test_both_readmes_have_the_same_sections_settings_and_code():
    assert [level for level, _ in headings(ENGLISH)] == [level for level, _ in headings(RUSSIAN)]
    assert code_blocks(ENGLISH) == code_blocks(RUSSIAN)
    settings = [re.findall(r"^\| (`[A-Z_`, ]+`) \|", text, re.MULTILINE) for text in (ENGLISH, RUSSIAN)]
    assert settings[0] == settings[1]
    assert len(settings[0]) > 8


def test_the_service_page_shows_the_systemd_unit_as_it_is():
    unit = (ROOT / "deploy/ggserve.service").read_text()
    shown = re.search(r"```ini\n(.*?)```", (ROOT / "docs/service.md").read_text(), re.DOTALL)
    assert shown
    assert shown[1] in unit


def test_every_setting_is_documented():
    text = "".join(page.read_text("utf-8") for page in PAGES)
    assert [name for name in Settings.model_fields if name.upper() not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_bodies_of_curl_are_json(page):
    for body in re.findall(r"curl [^\n]*-d '([^']*)'", page.read_text("utf-8")):
        json.loads(body)


def test_the_dashboard_asks_for_metrics_that_exist():
    source = (ROOT / "ggserve/api/metrics.py").read_text()
    for name in re.findall(r"ggserve:(\w+)", (ROOT / "deploy/grafana.json").read_text()):
        assert f'"{re.sub("_(total|bucket)$", "", name)}"' in source, name


def test_one_version():
    assert create_app().version == VERSION
    releases = re.findall(r"^## \[(\d.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert releases.count(VERSION) == 1
    assert releases[0] == VERSION
    assert VERSION not in (ROOT / "pyproject.toml").read_text()


def test_the_settings_page_is_what_the_code_says():
    made = runpy.run_path(str(ROOT / "docs/make_settings.py"))
    assert made["PAGE"].read_text() == made["page"](), "run `python docs/make_settings.py`"


def test_the_fields_page_is_what_the_code_says():
    made = runpy.run_path(str(ROOT / "docs/make_api.py"))
    assert made["PAGE"].read_text() == made["page"](), "run `python docs/make_api.py`"


def test_the_architecture_page_lists_every_module():
    made = runpy.run_path(str(ROOT / "docs/make_architecture.py"))
    listed, expected = (
        re.findall(r"^- `(\w+\.py)`", text, re.MULTILINE) for text in (made["PAGE"].read_text(), made["page"]())
    )
    assert listed == expected, "run `python docs/make_architecture.py`"


def test_the_table_of_fields_has_every_field_of_the_schemas():
    made = runpy.run_path(str(ROOT / "docs/make_api.py"))
    fields = {name for schema in made["SCHEMAS"] for name in made["fields_of"](schema)}
    described = made["USED"].keys() | {name for name in made["IGNORED"] if "..." not in name}
    assert fields == described, "describe the field in ggserve/api/field_table.py"
    for schema in made["SCHEMAS"]:
        assert not made["fields_of"](schema) & made["REFUSED"][schema.endpoint].keys(), schema
