import pytest

from tests.chat.public_templates import FOLDER
from tests.chat.table import PAGE, page


@pytest.mark.skipif(not FOLDER.exists(), reason="the public templates are not here")
def test_the_page_of_chat_formats_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run python -m tests.chat.table"
