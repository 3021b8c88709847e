import tracemalloc

import pytest

from ggserve.chat.template import ChatTemplate
from ggserve.errors import TemplateError

MESSAGES = [{"role": "user", "content": "<héllo> & 'you'"}]

HOSTILE = [
    "{{ 'a' * 10**9 }}",
    "{{ [1] * 10**9 }}",
    "{{ 'a' | center(10**9) }}",
    "{{ 'a'.ljust(10**9) }}",
    "{{ 'a' | indent(10**9, true) }}",
    "{{ ['a'] | map('indent', 10**9, true) | list }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (10**9, 1) }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 10**9) }}",
    "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
    "{{ ('a' * 100000) | replace(new='b' * 100000, old='a') }}",
    "{{ ('b' * 100000).join('a' * 100000) }}",
    "{{ ('a' * 100000) | list | join('b' * 100000) }}",
    "{{ (2 ** 9999) ** 9999 }}",
    "{{ range(10**9) | list }}",
    "{{ messages | tojson(indent=10**9) }}",
    "{{ strftime_now('%1000000000d') }}",
    "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% set r = range(99999) | list %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}",
    "{% set x = 'a' * 10**7 %}{% for i in range(99999) %}{% if x[1:] == i %}{% endif %}{% endfor %}",
    "{% set x = 'a' * 10**6 %}{% for i in range(99999) %}{{ x }}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{{ ''.__class__.__mro__ }}",
    "{% set a = [] %}{% set b = [a] %}{{ a.append(b) }}",
    "{% set a = [] %}{{ a.append(a) }}",
    "{% set a = [] %}{% for i in range(9**6) %}{% set _ = a.append('x' * 1000) %}{% endfor %}{{ a }}",
    "{% set n = namespace(x=[]) %}{% for i in range(60) %}{% set y = [n.x, n.x] %}{% set _ = n.x.append(1) %}"
    "{% set n.x = y %}{% endfor %}",
    "{{ (1).to_bytes(10**9, 'big') }}",
    "{{ 'a'.encode() }}",
    "{{ 'a'.encode().ljust(10**9) }}",
    "{{ '{}'.format(1) }}",
    "{{ ('x\\n' * 10**6) | indent(900) }}",
    "{{ ('9' * 4000) | int // 7 * ('9' * 4000) | int }}",
    "{{ range(99999) | select | join('x' * 99999) }}",
    "{{ messages | attr('__class__') }}",
    "{{ cycler(1) }}",
    "{% include 'x' %}",
    "{% for",
    "{{ 1 | nonesuch }}",
    f"{{{{ {'(' * 5000}1{')' * 5000} }}}}",
    "{{ [range(99999) | list] * 99999 }}",
    *(
        f"{{% set ns = namespace(a={start}) %}}{{% for i in range(60) %}}{{% set ns.a = {grow} %}}{{% endfor %}}{use}"
        for start, grow, use in [
            ("['x']", "[ns.a, ns.a]", "{{ ns.a }}"),
            ("['x']", "[ns.a, ns.a]", "{{ ns.a | string | length }}"),
            ("['x']", "[ns.a, ns.a]", "{{ ns.a | tojson }}"),
            ("['x']", "[ns.a, ns.a]", "{{ ns.a == ns.a[0] }}"),
            ("('x', 'y')", "(ns.a, ns.a)", "{{ {ns.a: 1} }}"),
            ("{}", "{'a': ns.a, 'b': ns.a}", "{{ ns.a.values() }}"),
            ("[1]", "dict(a=ns.a, b=ns.a)", "{{ ns.a }}"),
            ("[1]", "(ns.a, ns.a) | list", "{{ '%s' % ns.a }}"),
            ("[1]", "[ns.a, ns.a] | groupby(0) | list", "{{ ns.a }}"),
        ]
    ),
    "{% macro f(n) %}{{ f(n - 1, varargs, varargs) if n else varargs }}{% endmacro %}{{ f(99, [1]) }}",
]


@pytest.mark.parametrize("source", HOSTILE, ids=lambda source: source[:60])
def test_hostile_templates_end_in_an_error(source: str) -> None:
    with pytest.raises(TemplateError) as caught:
        ChatTemplate(source).render(MESSAGES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "operation",
    [
        "x | title",
        "x | list",
        "x | max",
        "x | sort",
        "x | unique | list",
        "x.split()",
        "x.split(' ')",
        "x.rsplit(' ', 10**9)",
        "x.split(sep=' ')",
        "x.splitlines()",
        "(x | replace('ab ', '[],')) | from_json",
        "[[1]] * 90000 | sum(start=[])",
    ],
)
def test_no_huge_text_is_taken_apart(operation: str) -> None:
    tracemalloc.start()
    with pytest.raises(TemplateError):
        ChatTemplate(f"{{% set x = 'ab ' * 5 * 10**6 %}}{{{{ ({operation}) | length }}}}").render(MESSAGES)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 64 << 20


def test_templates_that_look_into_tools_render_without_any() -> None:
    assert ChatTemplate("{% for tool in tools %}{{ tool.name }}{% endfor %}a").render(MESSAGES) == "a"
    assert ChatTemplate("{% if tools is none %}none{% endif %}").render(MESSAGES) == "none"


def test_time_is_limited_where_nothing_is_built() -> None:
    loop = "{% for i in range(99999) %}{% if 'b' in x %}{% endif %}{% endfor %}"
    source = "{% set x = 'a' * 10**6 %}" + loop
    with pytest.raises(TemplateError, match="too long"):
        ChatTemplate(source).render(MESSAGES, seconds=0.05)


def test_a_template_may_change_its_lists_but_not_the_messages() -> None:
    source = (
        "{% set a = [] %}{% set _ = a.append('b') %}{% set _ = messages.append(1) %}{{ a.pop(0) }}{{ messages|length }}"
    )
    messages = [{"role": "user", "content": "x"}]
    assert ChatTemplate(source).render(messages) == "b2"
    assert len(messages) == 1


def test_what_nobody_gave_is_undefined() -> None:
    source = "{{ 'a' + x.y + x.z[0] }}{{ x | tojson }}{{ x is defined }}{% for i in x %}{{ i }}{% endfor %}{{ x.f }}"
    assert ChatTemplate(source).render(MESSAGES) == "anullFalse"


def test_members_named_like_methods_are_members() -> None:
    assert ChatTemplate("{{ messages[0].update }}").render([{"update": "now"}]) == "now"


def test_a_failed_rendering_leaves_the_next_its_budget() -> None:
    template = ChatTemplate("{% if big %}{{ 'a' * 10**9 }}{% endif %}ok")
    with pytest.raises(TemplateError):
        template.render(MESSAGES, variables={"big": True})
    assert template.render(MESSAGES) == "ok"


def test_a_bad_template_is_reported_on_construction() -> None:
    with pytest.raises(TemplateError):
        ChatTemplate("{% if %}")


def test_a_template_refuses_with_its_own_words() -> None:
    with pytest.raises(TemplateError, match=r"^roles must alternate$"):
        ChatTemplate("{{ raise_exception('roles must\nalternate') }}").render(MESSAGES)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages | tojson }}", '[{"role": "user", "content": "<héllo> & \'you\'"}]'),
        ("{{ {'b': 1, 'a': [2]} | tojson(indent=2) }}", '{\n  "b": 1,\n  "a": [\n    2\n  ]\n}'),
        ("{{ messages[0].content }}{{ messages[0]['nothing'] }}", "<héllo> & 'you'"),
        ("a\n  {% if true %}\nb\n  {% endif %}\nc", "a\nb\nc"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        (
            "{% for i in 'abc' %}{{ i }}{% if not loop.last %},{% endif %}{{ loop.length }}{% endfor %}",
            "a,3b,3c3",
        ),
        ("{% for k, v in {'x': 1}.items() %}{{ k ~ '=' ~ v }}{% endfor %}", "x=1"),
        ("{% for i in [3, 4] | reverse %}{{ loop.index0 }}{{ i }}{% else %}-{% endfor %}", "0413"),
        (
            "{% set n = namespace(x='') %}{% for i in 'ab' %}{% set n.x = n.x + i %}{% endfor %}{{ n.x }}",
            "ab",
        ),
        ("{% macro m(a, b='z') %}{{ a }}{{ b }}{% endmacro %}{{ m('q') }}", "qz"),
        ("{% generation %}{{ 'a' }}{% endgeneration %}b", "ab"),
        ("{{ 'a-b'.split('-')[-1].upper() }}{{ '  x '.strip() }}{{ ' y ' | trim }}{{ 'abc'[1:] }}", "Bxybc"),
        ("{{ '%s and %d' % ('a', 2) }}", "a and 2"),
        ("{{ ['a', 'b'] | join(', ') }}{{ messages | map(attribute='role') | join }}", "a, buser"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
        ("{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}{{ tools is none }}", "<s></s>TrueTrue"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{{ enable_thinking }}", "False"),
    ],
)
def test_what_templates_use(source: str, text: str) -> None:
    assert ChatTemplate(source, "<s>", "</s>").render(MESSAGES, variables={"enable_thinking": False}) == text


def test_default_template() -> None:
    template = ChatTemplate(None)
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "So?"},
    ]
    expected = "System: Be kind.\nUser: Hi\nAssistant: \nUser: So?\n"
    assert template.render(messages) == expected + "Assistant:"
    assert template.render(messages, add_generation_prompt=False) == expected
    assert "\nUser:" in template.stop
    assert ChatTemplate("x").stop == []
