"""Finding a split's files under a data root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from omgbench.contract import DataFile
from omgbench.data.locate import find_missing, locate, read_limited
from omgbench.errors import DataError

ANNOTATIONS = DataFile(("refcoco/refs(unc).p", "refs/refs(unc).json"), "expressions", source="the REFER page")
IMAGES = DataFile(("images/train2014", "train2014"), "COCO images", role="images")


def make(root: Path, name: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_the_first_existing_name_is_used(tmp_path: Path) -> None:
    second = make(tmp_path, "refs/refs(unc).json")
    assert locate(tmp_path, ANNOTATIONS) == second
    first = make(tmp_path, "refcoco/refs(unc).p")
    assert locate(tmp_path, ANNOTATIONS) == first


def test_images_must_be_a_folder(tmp_path: Path) -> None:
    make(tmp_path, "images/train2014")
    assert find_missing(tmp_path, [IMAGES]) == [IMAGES]
    (tmp_path / "train2014").mkdir()
    assert locate(tmp_path, IMAGES) == tmp_path / "train2014"


def test_missing_files_are_listed_in_order(tmp_path: Path) -> None:
    make(tmp_path, "refcoco/refs(unc).p")
    absent = DataFile(("a.json",), "a")
    assert find_missing(tmp_path, [IMAGES, ANNOTATIONS, absent]) == [IMAGES, absent]
    assert find_missing(tmp_path / "absent", [ANNOTATIONS]) == [ANNOTATIONS]


def test_the_error_lists_names_source_and_command(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        locate(tmp_path, ANNOTATIONS, "refcoco")
    message = str(caught.value)
    for part in (*ANNOTATIONS.names, "the REFER page", str(tmp_path), "omgbench data status refcoco"):
        assert part in message
    with pytest.raises(DataError, match="not a folder"):
        locate(tmp_path / "absent", IMAGES)


def test_reading_stops_at_the_limit(tmp_path: Path) -> None:
    path = make(tmp_path, "file")
    path.write_bytes(b"12345")
    assert read_limited(path, 5) == b"12345"
    with pytest.raises(DataError, match="file of 5 bytes"):
        read_limited(path, 4)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a file"):
        read_limited(tmp_path / "pipe", 10)
