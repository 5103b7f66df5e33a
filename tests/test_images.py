import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from experiments.ladders import celeba
from experiments.ladders import images
from experiments.ladders import nouns


def picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def png(picture):
    stream = io.BytesIO()
    picture.save(stream, "png")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    picture(8, 8).save(tmp_path / "a.png")
    picture(20, 12, 1).save(tmp_path / "deep" / "b.png")
    picture(9, 16, 2).convert("L").save(tmp_path / "c.jpg")
    (tmp_path / "broken.png").write_bytes(png(picture(8, 8))[:60])
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "text.jpg").write_text("no picture either")
    return tmp_path


def test_a_folder_gives_its_pictures_and_names_the_broken(folder):
    found = images.load(folder, 8)
    assert found.images.shape == (3, 8, 8, 3)
    assert found.images.dtype == np.uint8
    assert found.skipped == ("broken.png", "text.jpg")
    np.testing.assert_array_equal(found.images[0], np.asarray(picture(8, 8)))


def test_a_zip_gives_what_its_folder_gives(folder, tmp_path_factory):
    file = tmp_path_factory.mktemp("zip") / "pictures.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for path in folder.rglob("*.*"):
            archive.write(path, str(path.relative_to(folder)))
    np.testing.assert_array_equal(images.load(file, 8).images, images.load(folder, 8).images)
    assert images.load(file, 8).skipped == images.load(folder, 8).skipped


def test_a_damaged_member_of_a_zip_is_skipped_and_named(tmp_path):
    file = tmp_path / "pictures.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.png", png(picture(8, 8)))
        archive.writestr("b.png", png(picture(8, 8, 1)))
    whole = bytearray(file.read_bytes())
    whole[whole.index(png(picture(8, 8, 1))) + 40] ^= 255
    file.write_bytes(whole)
    found = images.load(file, 8)
    assert found.skipped == ("b.png",)
    assert len(found.images) == 1


def test_pictures_are_cropped_to_their_central_square(tmp_path):
    wide = np.zeros((4, 10, 3), np.uint8)
    wide[:, 3:7] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (images.load(tmp_path, 4).images == 200).all()


def test_an_npz_of_the_right_size_is_taken_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), np.uint8)
    np.savez(tmp_path / "set.npz", images=pixels, labels=np.arange(5))
    np.testing.assert_array_equal(images.load(tmp_path / "set.npz", 6).images, pixels)
    assert images.load(tmp_path / "set.npz", 3).images.shape == (5, 3, 3, 3)


def test_where_there_are_no_pictures_it_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such"):
        images.load(tmp_path / "none", 8)
    with pytest.raises(ValueError, match="found none that can be read and 0 broken"):
        images.load(tmp_path, 8)
    (tmp_path / "x.png").write_text("text")
    with pytest.raises(ValueError, match=r"1 broken: x.png"):
        images.load(tmp_path, 8)
    np.savez(tmp_path / "floats.npz", images=np.zeros((2, 4, 4, 3)))
    with pytest.raises(ValueError, match=r"uint8 \[count, height, width, 3\], got float64"):
        images.load(tmp_path / "floats.npz", 4)


def test_a_grid_shows_its_pictures_in_rows():
    three = np.stack([np.full((2, 2, 3), value, np.uint8) for value in (10, 20, 30)])
    shown = np.asarray(images.grid(three, columns=2, zoom=1))
    assert shown.shape == (4, 4, 3)
    assert shown[0, 0, 0] == 10
    assert shown[0, 3, 0] == 20
    assert shown[3, 0, 0] == 30
    assert shown[3, 3, 0] == 255


def test_unit_pictures_become_bytes_and_back():
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(images.to_uint8(every / 127.5 - 1), every)


@pytest.mark.parametrize(("width", "height"), [(178, 218), (89, 109)])
def test_a_face_is_cropped_to_what_the_paper_takes(width, height, tmp_path):
    scale = width / 178
    inside = (slice(round(57 * scale), round(185 * scale)),
              slice(round(25 * scale), round(153 * scale)))  # fmt: skip
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[inside] = 200  # 128x128 of a whole face, round (89, 121).
    Image.fromarray(pixels).save(tmp_path / "face.png")
    celeba.main(celeba.Settings(data=tmp_path, out=tmp_path / "deep" / "faces.npz"))
    found = images.load(tmp_path / "deep" / "faces.npz", 64).images
    assert found.shape == (1, 64, 64, 3)
    assert (found == 200).all()


def test_a_half_size_face_keeps_its_pixels():
    face = picture(89, 109)
    np.testing.assert_array_equal(celeba.crop(face, 64), np.asarray(face)[28:92, 12:76])


def test_what_is_no_aligned_face_is_skipped_with_all_else(tmp_path):
    picture(40, 50).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match=r"1 broken: small.png"):
        celeba.main(celeba.Settings(data=tmp_path, out=tmp_path / "faces.npz"))


def test_characters_are_layers_over_a_background_and_differ(tmp_path):
    colours = {}
    for number, kind in enumerate(nouns.LAYERS):
        for name in "ab":
            folder = tmp_path / ("v1" if name == "a" else "v0") / kind
            folder.mkdir(parents=True)
            clear = np.zeros((32, 32, 4), np.uint8)
            colours[kind, name] = (10 * number, ord(name), 0, 255)
            clear[8 * number :] = colours[kind, name]  # Each hides less than the one before.
            Image.fromarray(clear).save(folder / f"{name}.png")
    out = tmp_path / "characters.npz"
    nouns.main(nouns.Settings(art=tmp_path, count=10, out=out))
    found = np.load(out)
    assert len({picture.tobytes() for picture in found["images"]}) == 10
    for picture, traits in zip(found["images"], found["seeds"], strict=True):
        for number, kind in enumerate(nouns.LAYERS):
            name = "ba"[traits[1 + number]]  # By path: v0 comes first.
            assert tuple(picture[8 * number, 0]) == colours[kind, name][:3]
    with pytest.raises(ValueError, match="expected 17 different characters, found 1"):
        nouns.main(nouns.Settings(art=tmp_path, count=17, out=out))
    with pytest.raises(FileNotFoundError, match="give --art the folder"):
        nouns.main(nouns.Settings(art=tmp_path / "none", out=out))


def test_a_background_is_seen_through_clear_layers():
    clear = [[Image.new("RGBA", (32, 32))]] * 4
    picture = nouns.compose(np.array([1, 0, 0, 0, 0]), clear)
    assert (picture == nouns.BACKGROUNDS[1]).all()
