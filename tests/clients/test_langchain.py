"""LangChain's classes for OpenAI."""

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field


class Colour(BaseModel):
    """A colour."""

    name: str = Field(max_length=12)
    red: int = Field(ge=0, le=255)


def chat(url: str) -> ChatOpenAI:
    return ChatOpenAI(base_url=url, api_key="none", model="default", temperature=0, max_tokens=60)


def test_a_chat_whole_and_streamed(url: str):
    whole = chat(url).invoke("Write one sentence about the sea.")
    assert "sea" in whole.text
    assert whole.usage_metadata["output_tokens"] > 0
    assert "".join(piece.text for piece in chat(url).stream("Write one sentence about the sea.")) == whole.text


def test_a_tool_is_called(url: str):
    @tool
    def get_weather(city: str) -> str:
        """The weather in a city."""
        return "sunny"

    answer = chat(url).bind_tools([get_weather], tool_choice="get_weather").invoke("Weather in Paris?")
    assert [call["name"] for call in answer.tool_calls] == ["get_weather"]
    assert set(answer.tool_calls[0]["args"]) == {"city"}


def test_structured_output(url: str):
    assert isinstance(chat(url).with_structured_output(Colour).invoke("What colour is the sky?"), Colour)


def test_embeddings(url: str):
    embeddings = OpenAIEmbeddings(base_url=url, api_key="none", check_embedding_ctx_length=False)
    assert [len(vector) for vector in embeddings.embed_documents(["a cat", "a dog"])] == [576, 576]
