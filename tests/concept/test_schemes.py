# SPDX-License-Identifier: Apache-2.0
"""Which row a word uses at which bucket."""

from collections.abc import Callable

import pytest

from mrti_jax.concept import Concept, Word, by_name, parse, read_prompt, rows
from mrti_jax.errors import UserError


def rows_of(text: str, num_buckets: int = 10, official_semi: bool = False) -> tuple:
    (word,) = parse(text).words
    return rows(word, num_buckets, official_semi)


def test_table_of_the_schemes() -> None:
    assert rows_of("<jane>") == (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    assert rows_of("<jane[3]>") == (3, 3, 3, 3, 4, 5, 6, 7, 8, 9)
    assert rows_of("<jane(3)>") == (None, None, None, 3, 4, 5, 6, 7, 8, 9)
    assert rows_of("<jane|3|>") == (3,) * 10


@pytest.mark.parametrize("num_buckets", [1, 2, 3, 10, 33])
def test_identities(num_buckets: int) -> None:
    bare = rows_of("<j>", num_buckets)
    last = num_buckets - 1
    assert bare == tuple(range(num_buckets))
    for same in ("<j[0]>", "<j(0)>", "<j[0.0]>", "<j(0.0)>"):
        assert rows_of(same, num_buckets) == bare
    for same in (f"<j[{last}]>", "<j[1.0]>", "<j|1.0|>"):
        assert rows_of(same, num_buckets) == rows_of(f"<j|{last}|>", num_buckets)


def test_one_bucket_is_ordinary_textual_inversion() -> None:
    for text in ("<j>", "<j[0]>", "<j(0)>", "<j|0|>", "<j[0.7]>", "<j(1.0)>", "<j|0.2|>"):
        assert rows_of(text, 1) == (0,)


def test_resolutions() -> None:
    for tenth in range(10):
        for left, right in ("[]", "()", "||"):
            by_resolution = rows_of(f"<j{left}0.{tenth}{right}>")
            assert by_resolution == rows_of(f"<j{left}{tenth}{right}>")
    assert rows_of("<j|0.5|>", 3) == (1, 1, 1)


def test_the_authors_semi_scheme_nulls_bucket_k() -> None:
    assert rows_of("<j(3)>", official_semi=True) == (None,) * 4 + (4, 5, 6, 7, 8, 9)
    assert rows_of("<j(9)>", official_semi=True) == (None,) * 10
    assert rows_of("<j[3]>", official_semi=True) == rows_of("<j[3]>")


def test_bucket_out_of_range() -> None:
    with pytest.raises(UserError, match=r"<j\[10\]>.*'j' has 10 buckets.* between 0 and 9"):
        rows(Word("j", "fully", 10), 10)


def test_words_must_be_known(make_concept: Callable[..., Concept]) -> None:
    concepts = by_name([make_concept("jane"), make_concept("star", num_buckets=3)])
    text = "<jane[9]> and <star[2]> <3"
    assert read_prompt(text, concepts) == parse(text)
    with pytest.raises(UserError, match=r"<jame\[3\]>.*jane, star.*did you mean 'jane'\?"):
        read_prompt("a <jame[3]>", concepts)
    with pytest.raises(UserError, match="'star' has 3 buckets"):
        read_prompt("a <star|3|>", concepts)
    with pytest.raises(UserError, match=r"no concept is loaded.*runs/jane\).*write \\<jane>"):
        read_prompt("a <jane>", {})


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("a <jane", 'column 8 of "a <jane^"'),
        ("<jane<star>", 'column 6 of "<jane^<star>"'),
        ("<b>a <jane</b>", 'column 11 of "<b>a <jane^</b>"'),
        (r"\\<star> <jane [0.8]>", r'column 15 of "\\<star> <jane^ [0.8]>"'),
        ("<jane{3}>", 'column 6 of "<jane^{3}>"'),
        ("<jane:0.8>", 'column 6 of "<jane^:0.8>"'),
    ],
)
def test_a_concepts_name_without_the_bracket_of_a_word(
    text: str, marked: str, make_concept: Callable[..., Concept]
) -> None:
    concepts = by_name([make_concept("jane"), make_concept("star")])
    with pytest.raises(UserError) as error:
        read_prompt(text, concepts)
    assert "expected '>', '[', '(' or '|' after '<jane'" in str(error.value)
    assert marked in str(error.value) and "did you mean" not in str(error.value)
    assert "for text, write \\<jane" in str(error.value)
    escaped = text.replace("<jane", "\\<jane")
    told = read_prompt(escaped, concepts)
    assert "".join(map(str, told.parts)) == text.replace(r"\\<star>", r"\<star>")


@pytest.mark.parametrize("behind", ["[0.8]", "(3)", "|7|"])
def test_brackets_that_belong_inside(behind: str, make_concept: Callable[..., Concept]) -> None:
    concepts = by_name([make_concept("jane")])
    with pytest.raises(UserError) as error:
        read_prompt(f"a <jane>{behind}", concepts)
    assert f'write <jane{behind}>, with the brackets inside, at column 9 of "a <jane>^' in str(
        error.value
    )
    with pytest.raises(UserError, match=r"with the brackets inside, at column 12"):
        read_prompt(f"a <jane[3]>{behind}", concepts)
    for text in (f"a <jane> {behind}", "a <jane[3]>(red)", rf"a \<jane>{behind}"):
        assert str(read_prompt(text, concepts)) == text


@pytest.mark.parametrize(
    "text",
    [
        "<jan:0.8>",
        "<jan {3}>",
        "a <Jane [.5]>",
        "<jaen =3>",
        "<jan{x}>",
        "<jan |7|>",
        "<jan 3)>",
        "<jan/3>",
    ],
)
def test_a_slip_in_both_name_and_bracket(text: str, make_concept: Callable[..., Concept]) -> None:
    concepts = by_name([make_concept("jane")])
    with pytest.raises(UserError, match=r"'\|' after '<.*\^.*did you mean 'jane'\?"):
        read_prompt(text, concepts)
    escaped = text.replace("<", "\\<")
    assert read_prompt(escaped, concepts).parts == (text,)
    assert read_prompt(escaped.replace("<", "\\\\<"), concepts).parts == (text.replace("<", "\\<"),)
    with pytest.raises(UserError, match=r"did you mean 'jane'\?"):
        read_prompt(escaped.replace("<", "\\<"), concepts)  # a backslash, then the slip
    assert read_prompt(text, {}).parts == (text,)
    assert read_prompt(text, by_name([make_concept("teapot")])).parts == (text,)


@pytest.mark.parametrize(
    "text",
    [
        "a <janet",
        "a <jan and",
        "a < b <3 <jan",
        "<lora:foo:1> <lora:foo> <lora:2:0.8>",
        '<lara class="x" id=3>y',
        "<lara/> </lara> <lara />",
        "<lara 3>closed</lara>",
        "x <li 3> y",
        "x<lara && y>3",
        r"\<lara[0.8]>",
    ],
)
def test_other_text_near_a_concepts_name(text: str, make_concept: Callable[..., Concept]) -> None:
    concepts = by_name([make_concept(name) for name in ("jane", "lara1", "lora2", "lit")])
    assert read_prompt(text, concepts) == parse(text)


@pytest.mark.parametrize(
    "text",
    ["a <b>bold</b> star<br>", '<a href="x">y</a>', "<Button>go</Button>", "<p>one<P>two", "<h1/>"],
)
def test_html_is_text(text: str, make_concept: Callable[..., Concept]) -> None:
    assert read_prompt(text, {}).parts == (text,)
    concepts = by_name([make_concept("jane")])
    assert read_prompt(text + "<jane>", concepts).parts == (text, Word("jane"))


def test_a_concept_named_like_a_tag_is_a_word(make_concept: Callable[..., Concept]) -> None:
    concepts = by_name([make_concept("b")])
    assert read_prompt("a <b>", concepts).parts == ("a ", Word("b"))
    assert read_prompt(r"a \<b>", concepts).parts == ("a <b>",)
    for text in ("<jnae>", "<b[0]> <i[0]>"):  # a scheme is not HTML
        with pytest.raises(UserError, match="unknown concept word"):
            read_prompt(text, concepts)


def test_two_concepts_of_one_name(make_concept: Callable[..., Concept]) -> None:
    with pytest.raises(UserError, match="two concepts are named 'jane'"):
        by_name([make_concept("jane"), make_concept("jane", num_buckets=2)])
