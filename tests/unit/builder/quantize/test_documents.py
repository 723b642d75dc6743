"""Documents in text files, and which of them are held out."""

import pytest

from builder.errors import InvalidArgument
from builder.quantize.documents import (
    ROW_FORMAT,
    TextFile,
    calibration_and_held_out,
    read_documents,
    shuffled,
    split_held_out,
    without_held_out,
)
from tests.support.quantize import CHATS, write_rows

CHAT = CHATS[0]


def test_json_lines_have_texts_and_chats_and_plain_text_has_paragraphs(tmp_path):
    lines = write_rows(tmp_path / "a.jsonl", {"text": "One."}, {"messages": CHAT, "more": 1})
    assert read_documents(lines) == ["One.", CHAT]
    plain = tmp_path / "a.txt"
    plain.write_text("One\ntwo.\n\n\nThree.\n")
    assert read_documents(plain) == ["One\ntwo.", "Three."]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            b'{"text": "One."}\n\n{"text": \n',
            f"line 3 is not JSON: it must be {ROW_FORMAT}.",
        ),
        ("a.jsonl", b'{"txt": "One."}\n', f"line 1 has no text: it must be {ROW_FORMAT}."),
        ("a.jsonl", b'{"messages": [1]}\n', f"line 1 has no text: it must be {ROW_FORMAT}."),
        ("a.jsonl", b"[]\n", f"line 1 has no text: it must be {ROW_FORMAT}."),
        ("a.txt", b"\n \n", "a.txt has no text."),
        ("a.txt", b"a\xff", "a.txt is not UTF-8: invalid byte at 1."),
        ("a.csv", b"text\n", "a.csv must be a .jsonl, .txt or .parquet file."),
    ],
    ids=["no JSON", "no text", "no chat", "no object", "empty", "no UTF-8", "another kind"],
)
def test_an_invalid_file_is_refused_with_the_line_number(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidArgument) as refused:
        read_documents(path)
    assert str(refused.value).endswith(message)


def test_the_last_tenth_is_held_out():
    documents = [str(number) for number in range(25)]
    assert split_held_out(documents, "d") == (documents[:23], documents[23:])
    assert split_held_out(documents[:2], "d") == (["0"], ["1"])
    with pytest.raises(InvalidArgument, match=r"^d has one document"):
        split_held_out(documents[:1], "d")


def test_held_out_documents_and_their_copies_do_not_calibrate():
    assert without_held_out(["a", "b", CHAT, "a"], ["a", list(CHAT)], "d") == ["b"]
    with pytest.raises(InvalidArgument, match=r"^every document of d is held out"):
        without_held_out(["a"], ["a"], "d")


def test_documents_are_shuffled_in_the_same_way_every_time():
    documents = [str(number) for number in range(20)]
    assert shuffled(documents) == shuffled(documents) != documents
    assert sorted(shuffled(documents)) == sorted(documents)


def test_without_a_held_out_text_the_last_tenth_of_the_data_set_is_measured(tmp_path):
    rows = [{"text": str(number)} for number in range(10)]
    dataset = TextFile(write_rows(tmp_path / "d.jsonl", *rows), "d.jsonl", "1")
    other = TextFile(write_rows(tmp_path / "o.jsonl", {"text": "3"}), "o.jsonl", "2")
    calibration, held_out = calibration_and_held_out(dataset, dataset)
    assert (sorted(calibration), held_out) == (list("012345678"), ["9"])
    calibration, held_out = calibration_and_held_out(dataset, other)
    assert (sorted(calibration), held_out) == (list("012456789"), ["3"])
    assert calibration_and_held_out(None, other) == ([], ["3"])
