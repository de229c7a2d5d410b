"""Evaluation pictures are found among training pictures by their pixels, and the demo world has none."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omg_llava.errors import ModelError
from omg_llava.training import leakage
from omg_llava.training.leakage import pixel_fingerprint, refuse_evaluation_pictures
from omgbench.data.scenes.seeds import EVALUATION_SEEDS, TRAINING_SEEDS, evaluation_seeds
from omgbench_tasks.gcg.demo import write_gcg_demo
from omgbench_tasks.refcoco.demo import LAYOUTS, write_refer_demo

from ..lively import picture


def jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def training(tmp_path: Path) -> list[Path]:
    """JPEGs of two sizes."""
    (tmp_path / "training").mkdir()
    paths = []
    for number, size in enumerate(((64, 48), (64, 48), (30, 20))):
        paths.append(tmp_path / "training" / f"{number}.jpg")
        paths[-1].write_bytes(jpeg(picture(*size, number)))
    return paths


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """A folder with pictures of the same sizes that are others."""
    folder = tmp_path / "evaluation"
    (folder / "deeper" / "still").mkdir(parents=True)
    for number, size in enumerate(((64, 48), (48, 64), (30, 20))):
        picture(*size, 10 + number).save(folder / "deeper" / f"{number}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_other_pictures_may_be_trained_on(training: list[Path], evaluation: Path) -> None:
    assert refuse_evaluation_pictures(training, [evaluation]) == 3
    assert refuse_evaluation_pictures(training * 2, [evaluation, evaluation]) == 3
    assert refuse_evaluation_pictures([], [evaluation]) == 3
    assert refuse_evaluation_pictures(training, []) == 0


@pytest.mark.parametrize("name", ["renamed.jpg", "again.JPEG", "lossless.png", "still.webp", "bits.bmp"])
@pytest.mark.parametrize("which", [0, 2])
def test_the_same_pixels_are_found_whatever_the_file_is(
    training: list[Path], evaluation: Path, name: str, which: int
) -> None:
    twin = evaluation / "deeper" / "still" / name
    with Image.open(training[which]) as image:
        if name.lower().endswith(("jpg", "jpeg")):
            twin.write_bytes(training[which].read_bytes())
        else:
            image.save(twin, **({"lossless": True} if name.endswith("webp") else {}))
    with pytest.raises(ModelError) as caught:
        refuse_evaluation_pictures(training, [evaluation])
    assert str(training[which]) in str(caught.value)
    assert str(twin) in str(caught.value)


def test_a_grey_picture_is_the_same_in_colour(training: list[Path], evaluation: Path) -> None:
    with Image.open(training[0]) as image:
        grey = image.convert("L")
    grey.save(training[0].with_suffix(".png"))
    grey.convert("RGB").save(evaluation / "grey.png")
    with pytest.raises(ModelError):
        refuse_evaluation_pictures([training[0].with_suffix(".png")], [evaluation])


def test_nearly_the_same_is_another_picture(training: list[Path], evaluation: Path) -> None:
    """One pixel, a mirrored picture, the same bytes as another shape."""
    pixels = np.array(Image.open(training[0]))
    changed = pixels.copy()
    changed[5, 7, 1] ^= 1
    for number, other in enumerate((changed, pixels[:, ::-1], pixels.reshape(64, 48, 3))):
        Image.fromarray(np.ascontiguousarray(other)).save(evaluation / f"near{number}.png")
    assert refuse_evaluation_pictures(training, [evaluation]) == 6


def test_pictures_of_another_size_are_not_decoded(
    training: list[Path], evaluation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []

    def fingerprint(path: Path) -> str:
        decoded.append(path)
        return pixel_fingerprint(path)

    monkeypatch.setattr(leakage, "pixel_fingerprint", fingerprint)
    (evaluation / "deeper" / "2.png").unlink()
    refuse_evaluation_pictures(training, [evaluation])
    assert training[2] not in decoded
    assert sorted(path for path in decoded if path in training) == training[:2]


def test_evaluation_pictures_of_sizes_that_training_lacks_are_not_decoded(
    training: list[Path], evaluation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []
    monkeypatch.setattr(leakage, "pixel_fingerprint", lambda path: decoded.append(path) or str(path))
    refuse_evaluation_pictures(training[:2], [evaluation])
    assert evaluation / "deeper" / "1.png" not in decoded


@pytest.mark.parametrize("side", ["training", "evaluation"])
@pytest.mark.parametrize("content", [b"", b"no picture"], ids=["empty", "text"])
def test_a_file_that_is_no_picture_names_itself(
    training: list[Path], evaluation: Path, side: str, content: bytes
) -> None:
    path = (training[0].parent if side == "training" else evaluation) / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        refuse_evaluation_pictures([*training, path] if side == "training" else training, [evaluation])
    assert str(path) in str(caught.value)


def test_a_picture_that_ends_early_names_itself(training: list[Path], evaluation: Path) -> None:
    training[0].write_bytes(training[0].read_bytes()[:-200])
    with pytest.raises(ModelError) as caught:
        refuse_evaluation_pictures(training, [evaluation])
    assert str(training[0]) in str(caught.value)


def test_a_training_picture_that_is_missing_names_itself(training: list[Path], evaluation: Path) -> None:
    with pytest.raises(ModelError) as caught:
        refuse_evaluation_pictures([*training, training[0].parent / "nowhere.jpg"], [evaluation])
    assert "nowhere.jpg" in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
def test_folders_behind_links_are_looked_into(training: list[Path], evaluation: Path, tmp_path: Path) -> None:
    """Data roots are often made of links."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "twin.jpg").write_bytes(training[0].read_bytes())
    (evaluation / "train2014").symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(ModelError):
        refuse_evaluation_pictures(training, [evaluation])


def test_a_folder_without_pictures_is_a_mistake(training: list[Path], tmp_path: Path) -> None:
    (tmp_path / "wrong").mkdir()
    with pytest.raises(ModelError, match="wrong"):
        refuse_evaluation_pictures(training, [tmp_path / "wrong"])


# The demo world


def test_seeds_of_training_and_evaluation_share_none() -> None:
    assert EVALUATION_SEEDS.stop <= TRAINING_SEEDS.start
    assert EVALUATION_SEEDS.start == 0 and EVALUATION_SEEDS.step == TRAINING_SEEDS.step == 1
    last = evaluation_seeds(99, 99)
    assert last.stop - 1 in EVALUATION_SEEDS and last.stop - 1 not in TRAINING_SEEDS


@pytest.fixture(scope="module")
def demo_evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo_evaluation")
    for dataset in LAYOUTS:
        write_refer_demo(root, dataset, seed=0, n_images_per_split=3)
    write_gcg_demo(root, seed=0, n_images_per_split=6)
    return root


def test_no_training_scene_is_in_the_demo_data_of_evaluation(demo_root: Path, demo_evaluation: Path) -> None:
    training = sorted((demo_root / "demo_world" / "images").glob("*.jpg"))
    evaluation = sorted(demo_evaluation.rglob("*.jpg"))
    assert len(training) == 6 and len(evaluation) > 30
    assert refuse_evaluation_pictures(training, [demo_evaluation]) == len(evaluation)
    own, other = ({pixel_fingerprint(path) for path in paths} for paths in (training, evaluation))
    assert len(own) == len(training) and not own & other
    with pytest.raises(ModelError):
        refuse_evaluation_pictures([*training, evaluation[7]], [demo_evaluation])
