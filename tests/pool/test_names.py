"""Image names and keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import NameInvalid
from connector.pool import names

any_name = st.binary(min_size=1, max_size=300).map(lambda b: b.decode("utf-8", "surrogateescape"))


@given(any_name)
def test_every_name_maps_to_one_key_and_back(name: str) -> None:
    assert names.decode(names.encode(name)) == name


@given(any_name, any_name)
def test_two_names_never_share_a_key(one: str, other: str) -> None:
    assert (names.encode(one) == names.encode(other)) == (one == other)


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../x", "a%2Fb", "nul\0", "büro_1549485000"])
def test_hostile_names_stay_one_path_element(name: str) -> None:
    element = names.encode(name)
    assert "/" not in element
    assert element not in (".", "..")
    assert element.isascii()
    assert element.isprintable()


@pytest.mark.parametrize("element", ["", "%2f", "%41", "a b", "%", "%zz", ".hidden", "ü"])
def test_an_element_that_encode_never_writes_is_refused(element: str) -> None:
    with pytest.raises(NameInvalid):
        names.decode(element)


def test_a_usual_backup_id_reads_as_itself_in_a_key() -> None:
    assert names.manifest_key("fs01.example.com_1546635613", 1) == (
        "images/fs01.example.com_1546635613/1/manifest.json"
    )


def test_a_name_of_255_bytes_fits_whatever_its_bytes_are() -> None:
    assert names.image_folder("\udcff" * 255, 1, prefix_length=100)


def test_a_name_whose_key_would_pass_the_limit_is_refused_and_not_cut() -> None:
    with pytest.raises(NameInvalid, match="shorter name"):
        names.image_folder("/" * 400, 1)
