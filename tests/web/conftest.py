"""One browser for all tests of the page; each test starts as on a first visit."""

import os
from collections.abc import Iterator

import pytest

from tests.web.browser import Page, find_chromium, running_chromium


@pytest.fixture(scope="session")
def _chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    found = find_chromium()
    if found is None:
        message = "no Chromium with its driver: on Debian, apt-get install chromium chromium-driver"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    with running_chromium(found, tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture
def page(_chromium: Page) -> Iterator[Page]:
    yield _chromium
    _chromium.driver.get("about:blank")  # ends what still runs
    _chromium.problems()
    _chromium.requests()
