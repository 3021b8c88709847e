"""What the documents say of the project's surface is true: links, settings, metrics, bodies, the version."""

import json
import re
import runpy

import pytest

from ggserve import __version__ as VERSION
from ggserve.app import create_app
from ggserve.settings import Settings
from tests.conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


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
    assert f"## {VERSION}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert VERSION not in (ROOT / "pyproject.toml").read_text()


def test_the_settings_page_is_what_the_code_says():
    made = runpy.run_path(str(ROOT / "docs/make_settings.py"))
    assert made["PAGE"].read_text() == made["page"](), "run `python docs/make_settings.py`"


def test_the_fields_page_is_what_the_code_says():
    made = runpy.run_path(str(ROOT / "docs/make_fields.py"))
    assert made["PAGE"].read_text() == made["page"](), "run `python docs/make_fields.py`"


def test_the_table_of_fields_has_every_field_of_the_schemas():
    made = runpy.run_path(str(ROOT / "docs/make_fields.py"))
    fields = {name for schema in made["SCHEMAS"] for name in made["fields_of"](schema)}
    described = made["USED"].keys() | {name for name in made["IGNORED"] if "..." not in name}
    assert fields == described, "describe the field in ggserve/api/field_table.py"
    for schema in made["SCHEMAS"]:
        assert not made["fields_of"](schema) & made["REFUSED"][schema.endpoint].keys(), schema
