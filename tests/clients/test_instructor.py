"""instructor in the modes that people use with their own servers."""

from typing import Any

import instructor
import openai
import pytest
from pydantic import BaseModel, Field


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=150)


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
def test_each_mode_makes_a_person(url: str, mode: str):
    client: Any = instructor.from_openai(
        openai.OpenAI(base_url=url, api_key="none", max_retries=0), mode=instructor.Mode[mode]
    )
    person = client.chat.completions.create(
        model="default",
        response_model=Person,
        messages=[{"role": "user", "content": "Jason is 25 years old."}],
        temperature=0,
        max_tokens=60,
        max_retries=0,
    )
    assert isinstance(person, Person)
