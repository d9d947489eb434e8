"""Files of texts, and what is refused of them."""

import pytest

import prefix_interp as pi
from prefix_interp.inspection.text_files import read_texts


def test_a_line_is_a_text_plain_or_as_json(tmp_path):
    (tmp_path / "a.txt").write_text("One.\n\n  Two, three.\n")
    (tmp_path / "a.jsonl").write_text('{"text": "One.", "label": 1}\n"Two."\n')
    assert read_texts(tmp_path / "a.txt") == ["One.", "  Two, three."]
    assert read_texts(str(tmp_path / "a.jsonl")) == ["One.", "Two."]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"x", "must end in .txt or .jsonl"),
        ("a.txt", b"\n \n", "holds no text; give at least one line"),
        ("a.txt", b"\xff\xfe", "is not UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{"words": 1}\n', "holds no text in line 2"),
        ("a.jsonl", b"{", "holds no text in line 1"),
        ("a.jsonl", b'{"text": " "}', "holds no text in line 1"),
        ("b.txt", None, "does not exist"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(pi.PrefixInterpError, match=says) as error:
        read_texts(tmp_path / name)
    assert "\n" not in str(error.value)


def test_only_line_ends_end_lines_and_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(
        b"\xef\xbb\xbf" + '{"text": "one\u2028two"}\r\n"x"\n'.encode()
    )
    assert read_texts(tmp_path / "a.jsonl") == ["one\u2028two", "x"]
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    assert read_texts(tmp_path / "a.txt") == ["one", "two"]
