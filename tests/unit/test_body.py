"""Bodies on the wire: what is written, what is read back, and what a person is told when it cannot be."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import logging
import pickle
import subprocess
import sys
import traceback
import uuid
from datetime import datetime
from typing import Annotated, Any, Literal, NewType, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from streamworker.body import Decode, decoder, encode, size_of
from streamworker.errors import ConfigError, UndecodableBody

CANARY = "SW-CANARY-4111"


class Order(msgspec.Struct):
    id: int
    qty: int = 1


class Created(msgspec.Struct, tag="created"):
    id: int


class Cancelled(msgspec.Struct, tag="cancelled"):
    id: int


class Colour(enum.Enum):
    RED = "red"


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    id: int = 0


class Checked(msgspec.Struct):
    name: str

    def __post_init__(self) -> None:
        raise ValueError(f"Expected no {self.name}")  # reads like a text of msgspec's own


class Exploding(msgspec.Struct):
    name: str

    def __post_init__(self) -> None:
        raise KeyError(self.name)


class Coloured(msgspec.Struct):
    colour: Colour
    kind: Literal["a", "b"] = "a"


class Event(msgspec.Struct):
    event: Created | Cancelled


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Address(TypedDict):
    city: str


class Picture(msgspec.Struct):
    name: str
    pixels: bytes
    thumb: bytes | None = None


class Node(msgspec.Struct):
    value: int
    children: list[Node] = []


class Model(pydantic.BaseModel):
    id: int
    when: datetime | None = None
    by: str = pydantic.Field(default="", alias="createdBy")


class Line(pydantic.BaseModel):
    qty: int = pydantic.Field(gt=0)


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    name: uuid.UUID


class Everything(pydantic.BaseModel, extra="forbid"):
    lines: list[Line] = []
    counts: dict[str, int] = {}
    numbers: dict[int, int] = {}
    pet: Annotated[Cat | Dog, pydantic.Field(discriminator="kind")] | None = None
    choice: Literal["a", "b"] = "a"
    custom: str = ""
    named: str = ""

    @pydantic.field_validator("custom")
    @classmethod
    def _refuse(cls, value: str) -> str:
        if value:
            raise ValueError(f"not {value}")
        return value

    @pydantic.field_validator("named")
    @classmethod
    def _refuse_under_a_known_name(cls, value: str) -> str:
        if value:
            raise PydanticCustomError("missing", f"no {value}")
        return value


@pydantic.dataclasses.dataclass
class Validated:
    age: int = pydantic.Field(ge=18)


UserId = NewType("UserId", int)


def read(annotation: Any, body: bytes, source: str | None = None) -> Any:
    return decoder(annotation, source)([b"data", body])


@functools.cache
def compiled(annotation: Any) -> Decode:
    return decoder(annotation, None)


def why(annotation: Any, body: bytes) -> str:
    with pytest.raises(UndecodableBody) as caught:
        read(annotation, body)
    return str(caught.value)


# --- writing


def test_an_entry_of_ours_is_what_redis_cli_would_write() -> None:
    assert encode(Order(1)) == [b"data", b'{"id":1,"qty":1}']


@pytest.mark.parametrize(
    ("body", "data"),
    [
        ("text", b"text"),
        ("", b""),
        ("{'not': json}", b"{'not': json}"),
        ({"a": [1, None]}, b'{"a":[1,null]}'),
        (Point(1), b'{"x":1,"y":0}'),
        (Model(id=1, createdBy="me"), b'{"id":1,"when":null,"createdBy":"me"}'),
        ([Model(id=1, createdBy="me")], b'[{"id":1,"when":null,"createdBy":"me"}]'),
        (Validated(20), b'{"age":20}'),
        (Created(1), b'{"type":"created","id":1}'),
        (None, b"null"),
    ],
    ids=repr,
)
def test_text_travels_as_it_is_and_everything_else_as_json(body: object, data: bytes) -> None:
    assert encode(body) == [b"data", data]


@pytest.mark.parametrize("body", [b"\x00\xff", bytearray(b"\x00\xff"), memoryview(b"\x00\xff")])
def test_bytes_travel_as_they_are_and_are_marked(body: object) -> None:
    assert encode(body) == [b"data", b"\x00\xff", b"content-type", b"application/octet-stream"]


def test_type_and_headers_are_fields_of_their_own() -> None:
    fields = encode("x", type="order.created", headers={"trace-id": "ä", "empty": ""})
    assert fields == [b"data", b"x", b"type", b"order.created", b"trace-id", "ä".encode(), b"empty", b""]


@pytest.mark.parametrize("name", ["data", "type", "content-type", "sw-", "sw-retries", ""])
def test_a_header_with_a_name_of_ours_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="header"):
        encode("x", headers={name: "value"})


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (object(), "'object'"),
        ({"key": {CANARY: object()}}, "Encoding objects of type object is unsupported"),
        ({(CANARY, 1): 1}, "'dict'"),
        (lambda: CANARY, "'function'"),
        (CANARY + "\ud800", "surrogate"),
        ([CANARY + "\ud800"], "'list'"),
    ],
)
def test_a_body_that_cannot_be_written_is_refused_by_its_type_and_without_its_value(body: object, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        encode(body)
    assert named in str(caught.value)
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None


def test_a_body_that_contains_itself_is_refused() -> None:
    body: list[object] = []
    body.append(body)
    with pytest.raises(ConfigError, match="RecursionError"):
        encode(body)


@pytest.mark.parametrize("headers", [{"n": 1}, {1: "n"}, {"n": None}, {"n": b"x"}, {"n": "\ud800"}])
def test_a_header_that_is_not_text_is_refused(headers: Any) -> None:
    with pytest.raises(ConfigError, match="header"):
        encode("x", headers=headers)


def test_a_type_that_is_not_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="type must be a str, not 'int'"):
        encode("x", type=1)  # type: ignore[arg-type]


# --- reading


@pytest.mark.parametrize(
    ("annotation", "body", "value"),
    [
        (Order, b'{"id":1,"more":2}', Order(1)),
        (Created | Cancelled, b'{"type":"cancelled","id":2}', Cancelled(2)),
        (Point, b'{"x":1}', Point(1)),
        (Address, b'{"city":"Ulm"}', {"city": "Ulm"}),
        (Node, b'{"value":1,"children":[{"value":2}]}', Node(1, [Node(2)])),
        (dict, b'{"a":1}', {"a": 1}),
        (list[Order], b'[{"id":1}]', [Order(1)]),
        (int, b"7", 7),
        (Order | None, b"null", None),
        (UserId, b"7", 7),
        (Annotated[int, msgspec.Meta(gt=3)], b"7", 7),
        (Any, b'{"a":[1,2.5,null]}', {"a": [1, 2.5, None]}),
        (object, b"[1]", [1]),
        (bytes, b"\x00\xff", b"\x00\xff"),
        (bytes, b"", b""),
        (Annotated[bytes, msgspec.Meta(max_length=2)], b"\x00\xff", b"\x00\xff"),
        (str, "\ufeffgrün\x00".encode(), "\ufeffgrün\x00"),
        (str, b'"quoted"', '"quoted"'),
        (str | None, b"text", "text"),
        (Annotated[str, msgspec.Meta(max_length=5)], b"text", "text"),
        (NewType("Name", str), b"text", "text"),
        (Model, b'{"id":"1","when":"2024-01-01T00:00:00","createdBy":"me"}', Model(id=1, when=datetime(2024, 1, 1), createdBy="me")),  # noqa: E501
        (list[Line], b'[{"qty":1}]', [Line(qty=1)]),
        (Cat | Line, b'{"qty":1}', Line(qty=1)),
        (Validated, b'{"age":20}', Validated(20)),
    ],
    ids=repr,
)  # fmt: skip
def test_a_body_becomes_what_the_annotation_says(annotation: Any, body: bytes, value: object) -> None:
    assert read(annotation, body) == value


@pytest.mark.parametrize(
    ("annotation", "body", "reason"),
    [
        (Order, b'{"id":"x"}', "Expected `int`, got `str` - at `$.id`"),
        (Order, b"{}", "Object missing required field `id`"),
        (Order, b"", "the body is empty"),
        (Order, b"\xef\xbb\xbf{}", "the body starts with a byte order mark, which is not JSON"),
        (Order, '{"id":1}'.encode("utf-16"), "JSON is malformed: invalid character (byte 0)"),
        (Order, b'{"id":1}\x00', "JSON is malformed: trailing characters (byte 9)"),
        (Order, b'{"id":1', "Input data was truncated"),
        (Order, pickle.dumps(CANARY), "JSON is malformed: invalid character (byte 0)"),
        (Any, b'"\xff"', "the body is not UTF-8"),
        (str, b"\xff", "the body is not UTF-8"),
        (Any, b"[" * 100_000, "the body is nested too deeply"),
        (Order, b'{"more":' + b"[" * 100_000, "the body is nested too deeply"),
        (Any, b"9" * 5000, "Integer value out of range"),
        (Any, b"NaN", "JSON is malformed: invalid character (byte 0)"),
        (Coloured, b'{"colour":"SW-CANARY-4111"}', "Invalid enum value - at `$.colour`"),
        (Coloured, b'{"colour":"SW-CANARY-4111 - at `$.x"}', "Invalid enum value - at `$.colour`"),
        (Colour, b'"SW-CANARY-4111 - at `$.SW-CANARY-4111`"', "Invalid enum value"),
        (Literal[1, 2], b"4111", "Invalid enum value"),
        (Event, b'{"event":{"type":"SW-CANARY-4111"}}', "Unknown tag - at `$.event.type`"),
        (Strict, b'{"SW-CANARY-4111":1}', "Object contains a field that the type does not have"),
        (Checked, b'{"name":"SW-CANARY-4111"}', "ValueError raised by the body's type"),
        (Exploding, b'{"name":"SW-CANARY-4111"}', "KeyError raised by the body's type"),
        (dict[str, int], b'{"SW-CANARY-4111":"x"}', "Expected `int`, got `str` - at `$[...]`"),
        (Model, b'{"id":"SW-CANARY-4111"}', "Input should be a valid integer, unable to parse string as an integer - at `$.id`"),  # noqa: E501
        (Model, b'{"createdBy":1}', "Field required - at `$.id`; Input should be a valid string - at `$.createdBy`"),
        (Everything, b'{"lines":[{"qty":1},{"qty":0}]}', "Input should be greater than 0 - at `$.lines[1].qty`"),
        (Everything, b'{"SW-CANARY-4111":1}', "Extra inputs are not permitted - at `$[...]`"),
        (Everything, b'{"counts":{"SW-CANARY-4111":"x"}}', "Input should be a valid integer, unable to parse string as an integer - at `$.counts[...]`"),  # noqa: E501
        (Everything, b'{"numbers":{"4111":"x"}}', "Input should be a valid integer, unable to parse string as an integer - at `$.numbers[...]`"),  # noqa: E501
        (Everything, b'{"pet":{"kind":"SW-CANARY-4111"}}', "union_tag_invalid - at `$.pet`"),
        (Everything, b'{"pet":{"kind":"dog","name":"SW-CANARY-4111"}}', "uuid_parsing - at `$.pet.dog.name`"),
        (Everything, b'{"choice":"SW-CANARY-4111"}', "Input should be 'a' or 'b' - at `$.choice`"),
        (Everything, b'{"custom":"SW-CANARY-4111"}', "value_error - at `$.custom`"),
        (Everything, b'{"named":"SW-CANARY-4111"}', "Field required - at `$.named`"),
        (Everything, b"{", "Invalid JSON: EOF while parsing an object at line 1 column 1"),
        (Everything, b"[" * 100_000, "Invalid JSON: recursion limit exceeded at line 1 column 202"),
        (Everything, b'"\\ud800"', "Invalid JSON: unexpected end of hex escape at line 1 column 8"),
    ],
)  # fmt: skip
def test_the_reason_says_what_is_wrong_and_nothing_of_the_body(annotation: Any, body: bytes, reason: str) -> None:
    assert why(annotation, body) == reason


def test_no_exception_that_quotes_the_body_hangs_on_the_error() -> None:
    body = json.dumps({"colour": CANARY, "custom": CANARY}).encode()
    for annotation in (Coloured, Everything, dict[str, Colour]):
        with pytest.raises(UndecodableBody) as caught:
            read(annotation, body)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
        assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_many_errors_of_a_model_are_told_in_short() -> None:
    body = json.dumps({"lines": [{"qty": 0}] * 50}).encode()
    assert why(Everything, body).endswith("at `$.lines[2].qty`; and 47 more")


_JSON: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["id", "name", "lines", "type"]), inner)
    ),
)


@pytest.mark.parametrize(
    "annotation", [Order, Any, dict[str, Any], Created | Cancelled, str, Coloured, Everything, list[Model], Checked]
)
@given(body=st.binary() | _JSON.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=100)
def test_no_body_whatsoever_raises_anything_else(annotation: Any, body: bytes) -> None:
    try:
        compiled(annotation)([b"data", body])
    except UndecodableBody as exc:
        assert str(exc).encode()  # noqa: PT017  (it may also not raise)


_FIELDS = [*Everything.model_fields, *Model.model_fields, "id", "colour", "kind", "event", "name", "createdBy"]
_WITH_CANARY = st.sampled_from([CANARY, 4111_4111_4111, [CANARY], {CANARY: CANARY}, {"kind": CANARY}, {"type": CANARY}])


@pytest.mark.parametrize("annotation", [Order, Coloured, Event, Strict, Checked, Everything, Model, dict[str, Colour]])
@given(
    value=st.dictionaries(
        st.sampled_from([CANARY, *_FIELDS]),
        _WITH_CANARY,
        min_size=1,
    )
)  # fmt: skip
@settings(max_examples=200)
def test_no_reason_ever_holds_a_part_of_the_body(annotation: Any, value: object) -> None:
    for fields in ([b"data", json.dumps(value).encode()], _record(value)):
        try:
            compiled(annotation)(fields)
        except UndecodableBody as exc:
            assert "CANARY" not in str(exc)  # noqa: PT017  (it may also not raise)
            assert "4111" not in str(exc)  # noqa: PT017


def _record(value: Any) -> list[bytes]:
    return [part for name, one in value.items() for part in (name.encode(), str(one).encode())]


@given(st.builds(Order, id=st.integers(-(2**63), 2**63 - 1), qty=st.integers(0, 9)))
def test_a_struct_comes_back_as_it_was_published(order: Order) -> None:
    assert decoder(Order, None)(encode(order, type="t", headers={"h": "v"})) == order


@given(st.binary(), st.text(st.characters(exclude_categories=["Cs"])))
def test_bytes_and_text_come_back_as_they_were_published(data: bytes, text: str) -> None:
    assert decoder(bytes, None)(encode(data)) == data
    assert decoder(str, None)(encode(text)) == text


@given(st.integers(), st.datetimes(), st.text(st.characters(exclude_categories=["Cs"])))
def test_a_pydantic_model_comes_back_as_it_was_published(number: int, when: datetime, by: str) -> None:
    model = Model(id=number % 2**63, when=when, createdBy=by)
    assert decoder(Model, None)(encode(model)) == model


# --- records


def test_an_entry_without_data_is_a_record_of_its_fields() -> None:
    entry = [b"id", b"7", b"qty", b"2", b"sw-marker", b"x"]
    assert decoder(Order, None)(entry) == Order(7, 2)
    assert decoder(Model, None)([b"id", b"7", b"createdBy", b"me"]) == Model(id=7, createdBy="me")
    assert decoder(Any, None)(entry) == {"id": "7", "qty": "2"}
    assert decoder(dict[str, int], None)(entry) == {"id": 7, "qty": 2}


def test_the_field_data_is_found_wherever_it_stands() -> None:
    assert decoder(Order, None)([b"type", b"t", b"data", b'{"id":1}']) == Order(1)


def test_body_fields_takes_the_record_even_if_there_is_a_field_data() -> None:
    assert decoder(Any, "fields")([b"data", b"1", b"more", b"2"]) == {"data": "1", "more": "2"}


def test_body_may_name_the_field() -> None:
    decode = decoder(Order, "payload")
    assert decode([b"data", b"x", b"payload", b'{"id":1}']) == Order(1)
    with pytest.raises(UndecodableBody, match="the entry has no field `payload`"):
        decode([b"id", b"1"])


def test_the_first_field_of_a_name_counts() -> None:
    assert decoder(Order, None)([b"id", b"1", b"id", b"2"]) == Order(1)
    assert decoder(Order, None)([b"data", b'{"id":1}', b"data", b'{"id":2}']) == Order(1)


def test_bytes_fields_of_a_record_stay_bytes_and_are_no_base64() -> None:
    fields = [b"name", b"cat", b"pixels", b"\xff\x00", b"thumb", b"aGk="]
    assert decoder(Picture, "fields")(fields) == Picture("cat", b"\xff\x00", b"aGk=")
    assert decoder(dict[str, bytes], "fields")([b"a", b"text"]) == {"a": b"text"}


def test_a_binary_field_that_the_type_does_not_have_is_in_nobodys_way() -> None:
    assert decoder(Order, None)([b"id", b"1", b"\xff", b"\xff"]) == Order(1)


@pytest.mark.parametrize(
    ("annotation", "fields", "reason"),
    [
        (Order, [b"qty", b"1"], "the entry has no field `data`, and its fields are no such record: Object missing required field `id`"),  # noqa: E501
        (Order, [b"id", b"\xff"], "the entry has no field `data`, and its fields are no such record: Expected `int`, got `bytes` - at `$.id`"),  # noqa: E501
        (Order, [], "the entry has no field `data`, and its fields are no such record: Object missing required field `id`"),  # noqa: E501
        (list[Order], [b"id", b"1"], "the entry has no field `data`"),
        (str, [b"id", b"1"], "the entry has no field `data`"),
    ],
)  # fmt: skip
def test_the_reason_says_that_data_is_missing(annotation: Any, fields: list[bytes], reason: str) -> None:
    with pytest.raises(UndecodableBody) as caught:
        decoder(annotation, None)(fields)
    assert str(caught.value) == reason


@pytest.mark.parametrize("annotation", [str, bytes, list[int], int])
def test_what_cannot_be_a_record_is_refused_with_body_fields(annotation: Any) -> None:
    with pytest.raises(ConfigError, match="record"):
        decoder(annotation, "fields")


# --- annotations that cannot work


class Plain:
    pass


class Holder(msgspec.Struct):
    inner: list[Plain]


@pytest.mark.parametrize(
    ("annotation", "named"),
    [
        (Plain, "`Plain`"),
        (list[Plain], "`Plain`"),
        (Holder, "`Plain`"),
        (complex, "`complex`"),
        (str | bytes, "str-like"),
        (Order | Point, "dict-like"),
        ("Order", "'Order'"),
        (list[Plain | Line], "Plain"),
    ],
    ids=repr,
)
def test_an_annotation_that_no_body_decodes_to_is_refused_at_the_start(annotation: Any, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decoder(annotation, None)
    assert named in str(caught.value)


def test_pydantic_is_never_imported_for_those_who_do_not_use_it() -> None:
    code = (
        "import sys, msgspec\n"
        "from streamworker.body import decoder, encode\n"
        "decoder(dict, None)(encode({'a': 1}))\n"
        "assert 'pydantic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- sizes


@pytest.mark.parametrize(
    ("fields", "source", "size"),
    [
        ([b"data", b"123", b"type", b"t"], None, 3),
        ([b"a", b"12", b"b", b"345"], None, 5),
        ([b"data", b"123", b"b", b"45"], "fields", 5),
        ([b"data", b"123", b"b", b"45"], "b", 2),
        ([b"data", b"123"], "b", 0),
        ([], None, 0),
    ],
)
def test_the_size_is_that_of_the_body(fields: list[bytes], source: str | None, size: int) -> None:
    assert size_of(fields, source) == size


def test_nothing_is_logged_about_a_body(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        why(Order, CANARY.encode())
    assert not caplog.records
