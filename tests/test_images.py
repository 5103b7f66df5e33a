import io
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from experiments.ladders import celeba, images


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
    assert [line.split(":")[0] for line in found.skipped] == ["broken.png", "text.jpg"]
    assert "truncated" in found.skipped[0]
    assert found.skipped[1] == "text.jpg: no picture"
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
    assert found.skipped == ("b.png: BadZipFile: Bad CRC-32 for file 'b.png'",)
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


GREY = np.arange(64, dtype=np.float64).reshape(8, 8) / 63
BYTES = np.round(255 * GREY).astype(np.uint8)


def only(folder, size=8):
    (shown,) = images.load(folder, size).images
    return shown


def skipped(folder):
    """The reason for the one file in a folder beside a good picture."""
    picture(8, 8).save(folder / "good.png")
    found = images.load(folder, 8)
    assert len(found.images) == 1
    (line,) = found.skipped
    return line


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_grey_is_scaled(tmp_path, name):
    Image.fromarray(np.round(65535 * GREY).astype(np.uint16)).save(tmp_path / name)
    np.testing.assert_array_equal(only(tmp_path), np.repeat(BYTES[..., None], 3, 2))


def test_12_bit_grey_is_scaled_by_its_own_white():
    values = np.round(4095 * GREY).astype(np.uint16)
    twelve = Image.fromarray(values)
    twelve.tag_v2 = {images.BITS_PER_SAMPLE: (12,)}
    np.testing.assert_array_equal(images._to_8_bits(twelve), BYTES)
    twelve.tag_v2 = {images.PHOTOMETRIC: 0}
    with pytest.raises(ValueError, match="0 is white"):
        images._to_8_bits(twelve)


def test_floats_up_to_1_are_scaled_and_others_are_skipped(tmp_path):
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "a.tiff")
    np.testing.assert_array_equal(only(tmp_path), np.repeat(BYTES[..., None], 3, 2))
    Image.fromarray((255 * GREY).astype(np.float32)).save(tmp_path / "a.tiff")
    assert skipped(tmp_path) == "a.tiff: values from 0 to 255, expected from 0, black, to 1, white"
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(tmp_path / "a.tiff")
    assert "values from nan" in skipped(tmp_path)
    Image.fromarray((2**30 * GREY).astype(np.int32)).save(tmp_path / "a.tiff")
    assert "white unknown" in skipped(tmp_path)


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("kind", ["RGB", "RGBA", "I;16"])
def test_a_picture_is_turned_as_its_exif_says(tmp_path, turned, kind):
    upright = np.repeat(BYTES[..., None], 3, 2)
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[turned]
    stored = Image.fromarray(upright)
    if back is not None:
        stored = stored.transpose(Image.Transpose(back))
    if kind == "I;16":
        stored = Image.fromarray(np.asarray(stored)[..., 0].astype(np.uint16) * 257)
    else:
        stored = stored.convert(kind)
    exif = Image.Exif()
    exif[0x0112] = turned
    stored.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(only(tmp_path), upright)


def test_what_is_transparent_shows_white_and_no_hidden_colour(tmp_path):
    hidden = np.zeros((8, 8, 4), np.uint8)
    hidden[:, :, 0] = 200
    hidden[:4, :, 3] = 255
    hidden[4, :, 3] = 51
    see_through = Image.fromarray(hidden)
    expected = np.full((8, 8, 3), 255)
    expected[:4] = (200, 0, 0)
    expected[4] = (244, 204, 204)
    see_through.save(tmp_path / "a.png")
    np.testing.assert_array_equal(only(tmp_path), expected)
    grey = Image.fromarray(hidden[..., [0, 3]], "LA")
    grey.save(tmp_path / "a.png")
    np.testing.assert_array_equal(only(tmp_path)[[0, 7], 0], [[200] * 3, [255] * 3])
    palette = Image.fromarray((np.arange(64).reshape(8, 8) >= 32).astype(np.uint8), "P")
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.save(tmp_path / "a.png", transparency=1)
    np.testing.assert_array_equal(only(tmp_path)[[0, 7], 0], [[10, 20, 30], [255] * 3])
    Image.fromarray(hidden[..., :3]).save(tmp_path / "a.png", transparency=(200, 0, 0))
    assert (only(tmp_path) == 255).all()
    deep = Image.fromarray(np.round(65535 * GREY).astype(np.uint16))
    deep.save(tmp_path / "a.png", transparency=0)
    assert "transparent" in skipped(tmp_path)


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_cmyk_is_shown_in_its_colours(tmp_path, name):
    Image.new("RGB", (8, 8), (200, 40, 90)).convert("CMYK").save(tmp_path / name)
    assert np.abs(only(tmp_path).astype(int) - [200, 40, 90]).max() <= 4


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tiff"])
def test_what_is_cut_short_is_skipped_whatever_it_is(tmp_path, suffix):
    picture(40, 40).save(tmp_path / f"whole.{suffix}")
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    (tmp_path / f"whole.{suffix}").unlink()
    (tmp_path / f"a.{suffix}").write_bytes(whole[: len(whole) // 2])
    assert skipped(tmp_path).startswith(f"a.{suffix}: ")


def test_the_first_frame_of_several_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert (only(tmp_path) == (255, 0, 0)).all()


def test_an_encrypted_member_of_a_zip_is_skipped(tmp_path):
    file = tmp_path / "pictures.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", png(picture(8, 8)))
        archive.writestr("b.png", png(picture(8, 8)))
    whole = bytearray(file.read_bytes())
    whole[whole.index(b"PK\x03\x04") + 6] |= 1
    whole[whole.index(b"PK\x01\x02") + 8] |= 1
    file.write_bytes(whole)
    found = images.load(file, 8)
    assert found.skipped == ("a.png: encrypted",)
    assert len(found.images) == 1


def peak(call):
    tracemalloc.start()
    try:
        return call(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_bomb_is_skipped_before_it_is_inflated(tmp_path):
    file = tmp_path / "pictures.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", png(picture(8, 8)))
        with archive.open("bomb.png", "w", force_zip64=True) as member:
            for _ in range(300):
                member.write(bytes(2**20))
        archive.writestr("lying.png", bytes(2**26))
    whole = bytearray(file.read_bytes())
    at = whole.rindex((2**26).to_bytes(4, "little"))
    whole[at : at + 4] = (1000).to_bytes(4, "little")
    file.write_bytes(whole)
    assert len(whole) < 2**20
    found, most = peak(lambda: images.load(file, 8))
    assert found.skipped[0] == f"bomb.png: {300 * 2**20} bytes, more than {2**28}"
    assert found.skipped[1].startswith("lying.png: BadZipFile")
    assert most < 2**23


def test_a_picture_of_too_many_pixels_is_skipped_by_its_header(tmp_path):
    Image.new("1", (9000, 9000)).save(tmp_path / "a.png")
    reason, most = peak(lambda: skipped(tmp_path))
    assert reason == f"a.png: 9000x9000 pixels, more than {2**26}"
    assert most < 2**23
    header = bytearray((tmp_path / "a.png").read_bytes())
    header[16:24] = (10**5).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(header)
    assert "DecompressionBomb" in skipped(tmp_path)


def test_a_file_of_too_many_bytes_is_not_read(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(2**28 + 1)  # Of nothing: it takes no room on the disk.
    assert skipped(tmp_path) == f"a.png: {2**28 + 1} bytes, more than {2**28}"


def test_a_damaged_file_of_many_is_named(tmp_path):
    for name in ("a.zip", "a.png"):
        (tmp_path / name).write_text("no zip")
        with pytest.raises(ValueError, match=rf"{name}, which is no zip or a damaged one"):
            images.load(tmp_path / name, 8)
    (tmp_path / "a.npz").write_text("no npz")
    with pytest.raises(ValueError, match=r"a.npz, which is no .npz or a damaged one"):
        images.load(tmp_path / "a.npz", 8)
    np.savez(tmp_path / "empty.npz")
    with pytest.raises(ValueError, match=r"empty.npz, found no array"):
        images.load(tmp_path / "empty.npz", 8)
    with pytest.raises(ValueError, match="at least 1 pixel, got 0"):
        images.load(tmp_path, 0)


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
