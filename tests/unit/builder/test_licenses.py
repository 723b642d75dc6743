"""The licence that a package declares, in one of four ways."""

from email.message import Message

import pytest

from builder.licenses import license_of


def declared(**fields) -> Message:
    message = Message()
    for name, value in fields.items():
        for each in value if isinstance(value, list) else [value]:
            message[name.replace("_", "-")] = each
    return message


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"License_Expression": "MIT OR Apache-2.0", "License": "other"}, "MIT OR Apache-2.0"),
        ({"License": "BSD | 3\n\nRedistribution and use"}, "BSD / 3"),
        (
            {
                "License": "Copyright (c) 2005",
                "Classifier": ["License :: OSI :: BSD", "Topic :: X"],
            },
            "BSD",
        ),
        ({"License_File": ["LICENSE", "NOTICE"]}, "in its file LICENSE"),
        ({"Name": "x"}, "not declared"),
    ],
    ids=["expression", "name", "classifier", "file", "none"],
)
def test_the_licence_of_a_package(fields, text):
    assert license_of(declared(**fields)) == text
