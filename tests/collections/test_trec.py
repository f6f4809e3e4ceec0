"""TREC's documents and topics."""

from __future__ import annotations

import html
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.collections.trec import Trec
from rerank.errors import DataError, MissingResourceError, UnknownNameError, UsageError
from rerank.io.topic_formats import convert_sgml_to_plain_text
from rerank.types import Document, Query
from tests.raising import raises

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "trec"


def docs_of(folder: Path, text: str) -> list[Document]:
    path = folder / "docs.sgml"
    path.write_text(text, encoding="utf-8", newline="\n")
    return list(Trec(docs=str(path)).docs())


def topics_of(folder: Path, text: str, fields: str = "title") -> list[Query]:
    path = folder / "topics"
    path.write_text(text, encoding="utf-8", newline="\n")
    return Trec(topics=str(path), fields=fields).queries()


def test_the_sample_documents() -> None:
    assert list(Trec(docs=str(SAMPLE / "docs")).docs()) == [
        Document(
            id="HARBOUR-001",
            title="Ferry & freight share the new quay",
            text="The harbour board lets the night ferry use the freight quay.\n"
            "Ships of less than 90 metres go first; a ship < 40 metres pays nothing.",
        ),
        Document(
            id="HARBOUR-002",
            text="the lighthouse keeper counts the gulls every morning\nand writes their number into a blue book",
        ),
        Document(id="HARBOUR-003", title="港口的新起重机", text="新的起重机每小时可以卸下三十个集装箱。"),
        Document(id="HARBOUR-004", title="Tide tables", text="Low water < 0.4 m at <noon>."),
    ]


@pytest.mark.parametrize("form", ["topics.txt", "topics.xml", "topics.tsv"])
def test_the_sample_topics(form: str) -> None:
    assert Trec(topics=str(SAMPLE / form)).queries()[:2] == [
        Query(id="701", text="ferry at the quay"),
        Query(id="702", text="gulls"),
    ]


def test_fields_of_topics() -> None:
    def texts(form: str, fields: str) -> list[str]:
        return [query.text for query in Trec(topics=str(SAMPLE / form), fields=fields).queries()]

    assert texts("topics.txt", "description")[0] == "Which quay does the ferry use, and when is it there?"
    assert texts("topics.txt", "title + narrative") == [
        "ferry at the quay A relevant document names the quay.",
        "gulls Counts of other birds are not relevant.",
    ]
    assert texts("topics.xml", "description") == ["which quay does the ferry use", "who counts the gulls there"]
    assert texts("topics.xml", "Title+Narrative") == [
        "ferry at the quay A relevant document names the quay & the time.",
        "gulls",  # a field that one topic lacks is left out
    ]
    assert texts("topics.xml", "query+question")[1] == "gulls who counts the gulls there"
    assert texts("topics.tsv", "title")[2] == "起重机有多快？"


def test_the_fields_are_part_of_the_fingerprint_and_spaces_are_not() -> None:
    def fingerprint(fields: str) -> str:
        return Trec(topics=str(SAMPLE / "topics.txt"), fields=fields).fingerprint

    assert fingerprint("title") != fingerprint("title+description")
    assert fingerprint("title+description") == fingerprint(" title + Description ")


def test_a_field_that_no_topic_has() -> None:
    with raises(UnknownNameError, "'naration'"):
        Trec(topics=str(SAMPLE / "topics.txt"), fields="title+naration").queries()


def test_a_topic_that_has_none_of_the_chosen_fields() -> None:
    with raises(DataError, "topics.xml:8", "702"):
        Trec(topics=str(SAMPLE / "topics.xml"), fields="narrative").queries()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<TOP>\n<NUM>Number: 7\n<TITLE> Topic: Kites \n</TOP>", Query(id="7", text="Kites")),
        ("<top><num>7</num><title>\nkites &amp; string\n</title></top>", Query(id="7", text="kites & string")),
        (
            "<top>\n<dom> Domain: Toys\n<num> 7\n<title> kites\n<con> Concepts: wind\n</top>",
            Query(id="7", text="kites"),
        ),
        ('<topic id="7" type="x"><title>kites</title></topic>', Query(id="7", text="kites")),
        ("<topic Number='7'>\nkites in <b>strong</b> wind\n</topic>", Query(id="7", text="kites in strong wind")),
        ("<topic><number>CF-7</number><query>kites</query></topic>", Query(id="CF-7", text="kites")),
        ("<topic number=7><title><![CDATA[a < b &amp; c]]></title></topic>", Query(id="7", text="a < b &amp; c")),
        ("\n\n7\tkites\tand tails  \n", Query(id="7", text="kites and tails")),
        ("7 \t风筝\n\n", Query(id="7", text="风筝")),
    ],
)
def test_forms_of_topics(tmp_path: Path, text: str, expected: Query) -> None:
    assert topics_of(tmp_path, text) == [expected]


def test_tags_of_ones_own(tmp_path: Path) -> None:
    text = '<topic number="1">\n <disease>gout</disease>\n <gene>ABCG2</gene>\n <subtopic>a</subtopic>\n'
    text += " <subtopic>b</subtopic>\n</topic>"
    assert [query.text for query in topics_of(tmp_path, text, "disease+gene")] == ["gout ABCG2"]
    assert [query.text for query in topics_of(tmp_path, text, "subtopic")] == ["a b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected at least one topic"),
        ("<topics></topics>", "contains no <TOP> or <TOPIC>"),
        ("<top>\n<title> kites\n</top>", ":1: the topic has no number"),
        ("<top>\n<num> 1 2\n<title> kites\n</top>", ":1: the topic id is '1 2'"),
        ("<top>\n<num> 1\n<title>\n</top>", "Unknown topic field 'title'"),
        ("<top>\n<num> 1\n<title> a\n</top>\n<top>\n<num> 1\n<title> b\n</top>", ":5: duplicate query '1'"),
        ("<top>\n<num> 1\n<top>\n", ":3: <top> is inside the element that starts in line 1"),
        ("<top>\n<num> 1\n<title> a\n", ":1: the element that starts here is not closed"),
        ("1\tkites\nkites\n", ":2: 'kites' has no tab"),
        ("\tkites\n", ":1: the topic id is ''"),
        ("1\ta\n1\tb\n", ":2: duplicate query '1'"),
        ("1\ta\n2\t\n", ":2: topic 2 has no title"),
    ],
)
def test_broken_topics(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises((DataError, UnknownNameError), match=message):
        topics_of(tmp_path, text)


@pytest.mark.parametrize("tag", ["TITLE", "HEADLINE", "HEAD", "HL", "DOCTITLE", "TI", "TTL", "title"])
@pytest.mark.parametrize("body", ["TEXT", "BODY", "CONTENT", "CONTENTS", "ABSTRACT", "ABST", "text"])
def test_names_of_title_and_text(tmp_path: Path, tag: str, body: str) -> None:
    text = f"<DOC>\n<DOCNO> a </DOCNO>\n<{tag}>T\nt</{tag}>\n<{body}>\nB\n\n b\n</{body}>\n<{body}>c</{body}></DOC>\n"
    assert docs_of(tmp_path, text) == [Document(id="a", title="T t", text="B\nb\nc")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<DOC><DOCNO>a</DOCNO>x</DOC><DOC><DOCNO>b</DOCNO>y</DOC>", [("a", "x"), ("b", "y")]),
        ('<DOC id="NYT_1" type="story">\n<TEXT>x</TEXT></DOC>', [("NYT_1", "x")]),
        ("<doc><docid>3</docid><docno>a</docno><dochdr>h</dochdr>x</doc>", [("a", "x")]),
        (
            "<DOC><DOCNO>a</DOCNO><TEXT><F P=106> x </F><!-- n\n --> 3<4 if p<y and z>w</TEXT></DOC>",
            [("a", "x 3<4 if p<y and z>w")],
        ),
        ("<DOC><DOCNO>a</DOCNO><TEXT></TEXT></DOC>", [("a", "")]),
        ("<DOC><DOCNO>a</DOCNO></DOC>", [("a", "")]),
        ("<DOC>\n<DOCNO>a</DOCNO>\n<TEXT>\n&lt;b&gt; &#37; &amp;lt;\n</TEXT>\n</DOC>", [("a", "<b> % &lt;")]),
    ],
)
def test_forms_of_documents(tmp_path: Path, text: str, expected: list[tuple[str, str]]) -> None:
    assert [(doc.id, doc.text) for doc in docs_of(tmp_path, text)] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "contains no <DOC>"),
        ("plain words\n", "contains no <DOC>"),
        ("<DOC>\n<TEXT>x</TEXT>\n</DOC>", ":1: the document has no id"),
        ("<DOC>\n<DOCNO> </DOCNO>\n</DOC>", ":1: the document has no id"),
        ("<DOC><DOCNO>a b</DOCNO></DOC>", ":1: the document id is 'a b'"),
        ("\n<DOC><DOCNO>a</DOCNO></DOC>\n<DOC><DOCNO>a</DOCNO></DOC>", ":3: duplicate document 'a'"),
        ("<DOC><DOCNO>a</DOCNO>\n<DOC>", ":2: <DOC> is inside the element that starts in line 1"),
        ("<DOC><DOCNO>a</DOCNO></DOC>\n</DOC>", ":2: </DOC> has no opening tag"),
        ("\n<DOC><DOCNO>a</DOCNO>\n", ":2: the element that starts here is not closed"),
    ],
)
def test_broken_documents(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        docs_of(tmp_path, text)


def test_a_document_twice_in_different_files(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("a.sgml", "b/c.sgml"):
        (tmp_path / name).write_text("<DOC><DOCNO>a</DOCNO></DOC>")
    (tmp_path / ".hidden").write_text("not read")
    with raises(DataError, "b/c.sgml:1", "'a'"):
        list(Trec(docs=str(tmp_path)).docs())


def test_documents_are_streamed(tmp_path: Path) -> None:
    path = tmp_path / "docs"
    path.write_text("<DOC><DOCNO>a</DOCNO></DOC>\n<DOC>")
    docs = Trec(docs=str(path)).docs()
    assert next(docs) == Document(id="a")
    with pytest.raises(DataError):
        next(docs)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        Trec()
    with pytest.raises(UsageError):
        Trec(qrels=str(SAMPLE / "qrels.txt"))
    with raises(UsageError, "fields='"):
        Trec(topics=str(SAMPLE / "topics.txt"), fields=" + ")
    with pytest.raises(MissingResourceError):
        Trec(topics="nowhere")
    with pytest.raises(MissingResourceError):
        Trec(docs="nowhere")
    with pytest.raises(MissingResourceError):
        Trec(docs=str(tmp_path))


LINES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40)


@given(LINES)
def test_escaped_text_comes_back(text: str) -> None:
    # NUL-like references and the like are the business of html; what html.escape writes must return
    assert convert_sgml_to_plain_text(f"<P>{html.escape(text)}</P>") == " ".join(text.split())


@given(st.text(max_size=60))
def test_plain_is_total(text: str) -> None:
    assert convert_sgml_to_plain_text(text) == convert_sgml_to_plain_text(text).strip()


@pytest.mark.shared
def test_vaswani(shared: Path) -> None:
    folder = shared / "data" / "vaswani"
    collection = Trec(
        docs=str(folder / "doc-text.trec.gz"), topics=str(folder / "query-text.trec"), qrels=str(folder / "qrels")
    )
    docs, queries, qrels = list(collection.docs()), collection.queries(), collection.qrels()
    assert (len(docs), len(queries), sum(map(len, qrels.values()))) == (11429, 93, 2083)
    assert docs[0].id == "1"
    assert docs[0].text.startswith("compact memories have flexible capacities a digital data storage\nsystem with")
    assert docs[9] == Document(id="10", text="highspeed microwave switching of semiconductors part")
    assert docs[11428].id == "11429"
    assert docs[11428].text.startswith("pattern detection and recognition both processes have been carried\nout on")
    assert queries[0].text == "MEASUREMENT OF DIELECTRIC CONSTANT OF LIQUIDS BY THE USE OF MICROWAVE TECHNIQUES"
    assert queries[9].text == "METHODS OF CALCULATING INSTANTANEOUS POWER DISSIPATION IN REACTIVE CIRCUITS"
    assert (queries[92].id, queries[92].text[:27]) == ("93", "HIGH FREQUENCY OSCILLATORS ")
    assert set(qrels) == {query.id for query in queries}


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "count", "first", "tenth", "last"),
    [
        (
            "adhoc.351-400.txt",
            50,
            ("351", "Falkland petroleum exploration"),
            ("360", "drug legalization benefits"),
            "400",
        ),
        ("adhoc.401-450.txt", 50, ("401", "foreign minorities, Germany"), ("410", "Schengen agreement"), "450"),
        ("covid-round5.xml", 50, ("1", "coronavirus origin"), ("10", "coronavirus social distancing impact"), "50"),
        ("dl19-passage.txt", 43, ("156493", "do goldfish grow"), ("1037798", "who is robert gray"), "146187"),
        (
            "dl21.txt",
            477,
            ("787021", "what is produced by muscle"),
            ("1052368", "who stabbed dr. martin luther king"),
            "855410",
        ),
        (
            "dl22.txt",
            500,
            ("588", "1099 b cost basis i sell specific shares"),
            ("77640", "can you get a master's degree in tefl"),
            "2056473",
        ),
        (
            "miracl-v1.0-sw-dev.tsv",
            482,
            ("6", "Bandari kubwa nchini Kenya iko wapi?"),
            ("38", "Jina kamili la Pelé ni lipi?"),
            "2597",
        ),
        (
            "miracl-v1.0-zh-dev.tsv",
            393,
            ("1719936#0", "二战是什么时候开始的？"),
            ("67347#0", "电视剧《继承者们》的女主角是谁？"),
            "5517620#0",
        ),
    ],
)
def test_real_topics(
    shared: Path, name: str, count: int, first: tuple[str, str], tenth: tuple[str, str], last: str
) -> None:
    queries = Trec(topics=str(shared / "data" / "qrels" / "topics" / f"topics.{name}")).queries()
    assert len(queries) == count
    assert (queries[0].id, queries[0].text) == first
    assert (queries[9].id, queries[9].text) == tenth
    assert queries[-1].id == last


@pytest.mark.shared
def test_all_fields_of_real_topics(shared: Path) -> None:
    topics = shared / "data" / "qrels" / "topics"
    for name in ("adhoc.351-400.txt", "adhoc.401-450.txt", "covid-round5.xml"):
        for fields in ("title", "description", "narrative"):
            queries = Trec(topics=str(topics / f"topics.{name}"), fields=fields).queries()
            assert len(queries) == 50
            assert not any("<" in query.text or query.text.lower().startswith(fields) for query in queries)
    queries = Trec(topics=str(topics / "topics.adhoc.351-400.txt"), fields="title+description").queries()
    assert queries[0].text == (
        "Falkland petroleum exploration What information is available on petroleum exploration in "
        "the South Atlantic near the Falkland Islands?"
    )


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('d1\tone\nd2\ttwo "quoted\n', [("d1", "", "one"), ("d2", "", 'two "quoted')]),
        ("doc_id\ttitle\ttext\r\nd1\tTitle\tone\r\n\r\n", [("d1", "Title", "one")]),
        ("D1\thttps://example.org\tTitle\tone\n", [("D1", "Title", "one")]),
        ("1\t\n2\ttwo\n", [("1", "", ""), ("2", "", "two")]),
    ],
    ids=["two", "three", "four", "empty"],
)
def test_tab_separated_documents(tmp_path: Path, lines: str, expected: list[tuple[str, str, str]]) -> None:
    (tmp_path / "docs.tsv").write_text(lines, encoding="utf-8", newline="")
    docs = Trec(docs=str(tmp_path / "docs.tsv")).docs()
    assert [(doc.id, doc.title, doc.text) for doc in docs] == expected


@pytest.mark.parametrize("lines", ["d1\tone\nd2\n", "d1\t1\t2\t3\t4\n", "d1\tone\nd1\ttwo\n", "\tone\n"])
def test_tab_separated_documents_that_are_wrong(tmp_path: Path, lines: str) -> None:
    (tmp_path / "docs.tsv").write_text(lines, encoding="utf-8")
    with raises(DataError, "docs.tsv:"):
        list(Trec(docs=str(tmp_path / "docs.tsv")).docs())
