"""Citations and field confidence on the page: quotations are marked in the document, and values are shaded."""

import json

from tests.web.browser import SEA

DOCUMENT = "The <quick> brown fox jumps over the lazy dog. It starts here, says the <author>."
SCHEMA = {"type": "object", "properties": {"calm": {"type": "boolean"}}, "required": ["calm"]}


def test_values_are_shaded_by_doubt(page, server):
    form = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    page.open(server.url, max_tokens=30, more=json.dumps({"response_format": form, "field_confidence": True}))
    page.ask(SEA)
    page.click("[aria-label=Confidence]")
    page.until(lambda: page.shown(".confidence .value"))
    assert page.text(".confidence .value") in ("true", "false")
    assert "true: " in page.one(".confidence .value").get_attribute("title")
    assert page.problems() == []


def test_quotations_are_marked_in_the_document(page, server):
    page.open(server.url, max_tokens=40, document=DOCUMENT)
    page.ask(SEA)
    message = page.stored()[0]["messages"][1]
    assert message["documents"][0]["text"] == DOCUMENT
    citation = {"document_index": 0, "start_char_index": 13, "end_char_index": 22}
    marked = page.driver.execute_async_script(
        """const [citation, text, done] = arguments;
        import("/web/trust.js").then(({ citationView }) =>
          done(citationView({ citations: [citation], documents: [{ text }] }).querySelector("mark").textContent));""",
        citation,
        DOCUMENT,
    )
    assert marked == DOCUMENT[13:22]
    assert page.problems() == []
