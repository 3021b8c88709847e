"""The options of a load have the same names, types and defaults everywhere."""

from dataclasses import MISSING, fields
from typing import get_type_hints

from ggserve.model.plan import LoadArguments, LoadOptions
from ggserve.settings import Settings


def test_the_keyword_arguments_of_a_model_are_the_fields_of_its_options() -> None:
    assert get_type_hints(LoadArguments) == get_type_hints(LoadOptions)


def test_a_setting_and_an_option_of_one_name_have_one_default() -> None:
    defaults = {field.name: field.default for field in fields(LoadOptions)}
    assert MISSING not in defaults.values()
    assert {name: Settings.model_fields[name].default for name in defaults} == defaults
