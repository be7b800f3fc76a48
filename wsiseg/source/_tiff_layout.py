"""Which pages of a TIFF are the slide, its levels and its associated images, and where they lie."""

import logging
import struct
import warnings
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import tifffile
from tifffile import TiffFile, TiffFrame, TiffPage

from wsiseg.errors import DamagedFileError, IncompleteSlideWarning, UnsupportedFormatError
from wsiseg.geometry import Box, Spacing, ceil_div
from wsiseg.source._codec import MAX_BLOCK_BYTES, BlockDecoder
from wsiseg.source._codecs import APERIO_J2K_YCBCR, decoder_for
from wsiseg.source._ome import ome_images
from wsiseg.source._spacing import declared_spacing, positive, tag_spacing

__all__ = ["NeedsOpenSlideError", "TiffImage", "TiffLayout", "read_layout"]

logging.getLogger("tifffile").addHandler(logging.NullHandler())
# its warnings repeat what our errors say; they go where logging is configured, not to the screen

ASPECT_TOLERANCE = 0.02
"""A page whose aspect differs by more from the slide's is not one of its levels."""

STRIP_BYTES = 1 << 20
"""Uncompressed strips are cut to about this size: one strip may hold the whole slide."""

_RGB, _YCBCR, _BLACK, _WHITE = 2, 6, 1, 0
_NEEDED = "needed an RGB brightfield image, 8 bits per sample"
_ASSOCIATED = ("label", "macro", "thumbnail")


class NeedsOpenSlideError(UnsupportedFormatError):
    """The direct path cannot serve this TIFF, though OpenSlide may."""


@dataclass(frozen=True, slots=True)
class TiffImage:
    """One image of the file: its blocks (tiles or strips), row by row."""

    shape: tuple[int, int]
    block: tuple[int, int]
    """Nominal pixels of a block (y, x); the last strip holds fewer rows."""

    grid: tuple[int, int]
    """Blocks along y and x."""

    offsets: Sequence[int]
    nbytes: Sequence[int]
    """Of block `row * grid[1] + column`; with separate planes, plane after plane. 0: left out."""

    planes: int
    """Blocks that make up the samples of a pixel: 1 where samples are interleaved."""

    samples: int
    white_is_zero: bool
    is_tiled: bool
    decode: BlockDecoder
    needs_probe: bool = False
    """Whether only decoding a block tells that the codec can read this one."""

    complete: bool = False
    """Whether the format leaves no block out, so that one without bytes is damaged."""

    def is_left_out(self, index: int) -> bool:
        """Return whether the file leaves a block out on purpose: it has neither bytes nor place."""
        return not self.nbytes[index] and not (self.complete or self.offsets[index])

    def block_box(self, index: int) -> Box:
        """Return the pixels of a block; tiles may overhang the image, strips do not."""
        row, column = divmod(index, self.grid[1])
        start = row * self.block[0], column * self.block[1]
        stop = start[0] + self.block[0], start[1] + self.block[1]
        if not self.is_tiled:
            stop = min(stop[0], self.shape[0]), stop[1]
        return Box(start, stop)

    def inside(self, index: int) -> Box:
        """Return the pixels of a block that lie in the image."""
        row, column = divmod(index, self.grid[1])
        top, left = row * self.block[0], column * self.block[1]
        bottom, right = top + self.block[0], left + self.block[1]
        return Box((top, left), (min(bottom, self.shape[0]), min(right, self.shape[1])))


@dataclass(frozen=True, slots=True)
class TiffLayout:
    """What a TIFF holds, as far as a slide is concerned."""

    vendor: str
    levels: tuple[TiffImage, ...]
    """From finest to coarsest."""

    associated: dict[str, TiffImage]
    spacing: Spacing | None
    objective_power: float | None
    properties: dict[str, str] = field(default_factory=dict)


TIFF_ERRORS = (
    tifffile.TiffFileError, struct.error, ValueError, LookupError, ArithmeticError, TypeError,
    AttributeError, RuntimeError, AssertionError, MemoryError,
)  # fmt: skip
"""What tifffile raises, besides its own error, where a directory makes no sense."""


def read_layout(tiff: TiffFile, name: str) -> TiffLayout:
    """Return the slide in an open TIFF.

    Raises
    ------
    UnsupportedFormatError
        If it is no brightfield slide: other sample types, fluorescence channels, a stack.
    NeedsOpenSlideError
        If it may be a slide, in a vendor's layout or a compression that is left to OpenSlide.
    DamagedFileError
        If its directory is incomplete.
    """
    for flag in ("is_ndpi", "is_bif", "is_scn", "is_philips"):
        if getattr(tiff, flag):
            vendor = flag.removeprefix("is_").upper()
            raise NeedsOpenSlideError(f"{name}: {vendor} is not read directly; use OpenSlide")
    pages = [page for page in walk_pages(tiff) if isinstance(page, TiffPage)]
    cut = f"the file ends at byte {tiff.filehandle.size}" if _is_cut(tiff, pages) else ""
    if not pages:
        reason = f"{cut}, before its directory" if cut else "the TIFF holds no image"
        raise DamagedFileError(f"{name}: {reason}; copy the file anew", path=name)
    if cut:
        text = f"{name}: {cut}, before all of its levels or pictures; copy the file anew"
        warnings.warn(text, IncompleteSlideWarning, stacklevel=2)
    if pages[0].description.startswith("Aperio"):
        return _aperio(pages, name)
    if tiff.is_ome:
        if any(mark in pages[0].description for mark in ("<!DOCTYPE", "<!ENTITY")):
            raise UnsupportedFormatError(
                f"{name}: the OME-XML declares a DOCTYPE, which images do not need and which could "
                "grow without limit; write the file again without it",
                path=name,
            )
        return _ome(tiff, name)
    return _generic(pages, name)


def walk_pages(tiff: TiffFile) -> Iterator[TiffPage | TiffFrame]:
    """Yield the pages of a TIFF.

    Raises
    ------
    ValueError
        If its directories lead in a circle, which tifffile follows without end.
    """
    seen: set[int] = set()
    for page in tiff.pages:
        if page.offset in seen:
            raise ValueError("its directories lead in a circle")
        seen.add(page.offset)
        yield page


def _is_cut(tiff: TiffFile, pages: Sequence[TiffPage]) -> bool:
    """Tell whether there are directories behind the last one that could be read, or in a page."""
    file, form = tiff.filehandle, tiff.tiff
    if any(offset >= file.size for page in pages for offset in page.subifds or ()):
        return True
    place = tiff.pages.next_page_offset
    if place is None:
        return False
    file.seek(place)
    pointer = file.read(form.offsetsize)
    return len(pointer) < form.offsetsize or struct.unpack(form.offsetformat, pointer) != (0,)


def _aperio(pages: list[TiffPage], name: str) -> TiffLayout:
    """Aperio SVS: tiled pages are levels, the others a thumbnail, a label and a macro image."""
    tiled = [page for page in pages if page.is_tiled]
    if not tiled:
        raise NeedsOpenSlideError(f"{name}: an Aperio file without tiled pages; use OpenSlide")
    first, *fields = tiled[0].description.split("|")
    properties = {"aperio.ImageLibrary": first.split("\n")[0].strip()}
    for item in fields:
        key, _, value = item.partition("=")
        properties[f"aperio.{key.strip()}"] = value.strip()
    mpp = properties.get("aperio.MPP")
    return TiffLayout(
        vendor="aperio",
        levels=tuple(replace(level, complete=True) for level in _levels(tiled, name)),
        associated=_associated([page for page in pages if not page.is_tiled], name),
        spacing=declared_spacing(mpp, mpp),
        objective_power=positive(properties.get("aperio.AppMag")),
        properties=properties,
    )


def _ome(tiff: TiffFile, name: str) -> TiffLayout:
    """OME-TIFF: the largest image is the slide; its levels are SubIFDs or further images."""
    series = sorted(tiff.series, key=lambda one: -_area(one.keyframe))
    slide = series[0]
    extra = [
        f"{axis}={size}"
        for axis, size in zip(slide.axes, slide.shape, strict=True)
        if axis not in "YXS" and size > 1
    ]
    if extra:
        raise UnsupportedFormatError(
            f"{name}: {_NEEDED}, found a stack or channels ({', '.join(extra)}, "
            f"{slide.dtype}); export one RGB plane",
            path=name,
        )
    if any(level.keyframe.parent is not tiff for level in slide.levels):
        raise UnsupportedFormatError(f"{name}: its pixels lie in other files; merge them into one")
    levels = _levels([level.keyframe for level in slide.levels], name)
    described = [
        image for image in ome_images(tiff.ome_metadata or "") if image.shape == levels[0].shape
    ]
    rest = [(one.name, one.keyframe) for one in series[1:]]
    properties = _tag_properties(slide.keyframe)
    return TiffLayout(
        vendor="generic-tiff",
        levels=levels,
        associated=_named_images(rest, name),
        spacing=described[0].spacing if described else None,
        objective_power=described[0].objective_power if described else None,
        properties=properties,
    )


def _generic(pages: list[TiffPage], name: str) -> TiffLayout:
    """Return the layout of any other TIFF: the largest page, and reduced copies of it."""
    base = max(pages, key=_area)
    reduced = [page for page in base.pages or () if isinstance(page, TiffPage)]
    others = [page for page in pages if page is not base and not page.subfiletype & 4]  # no masks
    if any(_size(page) == _size(base) and not page.subfiletype & 1 for page in others):
        raise UnsupportedFormatError(
            f"{name}: {_NEEDED}, found a stack of {len(pages)} pages of "
            f"{base.imagewidth} x {base.imagelength}; export one plane",
            path=name,
        )
    named = [page for page in others if _page_name(page) in _ASSOCIATED]
    reduced += [
        page
        for page in others
        if page not in named and (page.is_tiled or page.subfiletype & 1) and _like(page, base)
    ]
    return TiffLayout(
        vendor="generic-tiff",
        levels=_levels([base, *reduced], name),
        associated=_associated(named, name),
        spacing=_resolution(base),
        objective_power=None,
        properties=_tag_properties(base),
    )


def _levels(pages: Iterable[TiffPage], name: str) -> tuple[TiffImage, ...]:
    """Return the pages that show the same field as the largest, each smaller than the last."""
    base, *rest = sorted(pages, key=_area, reverse=True)
    levels = [_image(base, name)]
    for page in rest:
        if _size(page) == levels[-1].shape:
            raise UnsupportedFormatError(
                f"{name}: {_NEEDED}, found a stack: two pages of "
                f"{page.imagewidth} x {page.imagelength}; export one plane",
                path=name,
            )
        if _same_aspect(_size(page), _size(base)):
            levels.append(_image(page, name))
    return tuple(levels)


def _associated(pages: Iterable[TiffPage], name: str) -> dict[str, TiffImage]:
    """Return the label, macro and thumbnail among pages that are no levels."""
    return _named_images([(_page_name(page), page) for page in pages], name)


def _named_images(pages: Iterable[tuple[str, TiffPage]], name: str) -> dict[str, TiffImage]:
    """Return the pages whose names tell an associated image; unreadable ones are left out."""
    images: dict[str, TiffImage] = {}
    for title, page in pages:
        key = next((word for word in _ASSOCIATED if word in title.lower()), None)
        if key is None or key in images:
            continue
        try:
            images[key] = _image(page, name)
        except (UnsupportedFormatError, DamagedFileError):
            continue  # the slide itself is fine
    return images


def _page_name(page: TiffPage) -> str:
    """Return what a page is by its description or, for Aperio, its subfile type."""
    lines = page.description.lower().splitlines()
    if not lines or not lines[0].startswith("aperio"):
        return next((word for word in _ASSOCIATED if word in page.description.lower()), "")
    words = lines[1].split() if len(lines) > 1 else []
    if words and words[0] in _ASSOCIATED:
        return words[0]
    return {1: "label", 9: "macro"}.get(int(page.subfiletype), "thumbnail")


def _image(page: TiffPage, name: str) -> TiffImage:
    """Return where the blocks of a page lie and what decodes them."""
    _check_samples(page, name)
    planes = page.samplesperpixel if page.planarconfig == 2 and page.samplesperpixel > 1 else 1
    decode = decoder_for(
        int(page.compression),
        photometric=int(page.photometric),
        samples=page.samplesperpixel // planes,
        predictor=int(page.predictor),
        tables=page.jpegtables,
    )
    if decode is None or int(page.fillorder) != 1:
        raise NeedsOpenSlideError(
            f"{name}: TIFF compression {_word(page.compression)} with photometric "
            f"{_word(page.photometric)} and predictor {int(page.predictor)} cannot be decoded; "
            "convert the file to a tiled TIFF with JPEG or deflate",
            path=name,
        )
    block, offsets, nbytes = _blocks(page, planes)
    shape = _size(page)
    if min(*shape, *block) < 1:
        raise DamagedFileError(
            f"{name}: a page of {shape[1]} x {shape[0]} pixels in blocks of {block[1]} x "
            f"{block[0]}; copy the file anew",
            path=name,
        )
    grid = ceil_div(shape[0], block[0]), ceil_div(shape[1], block[1])
    if min(len(offsets), len(nbytes)) < grid[0] * grid[1] * planes:
        raise DamagedFileError(
            f"{name}: the directory of a {shape[1]} x {shape[0]} page is incomplete: needed "
            f"{grid[0] * grid[1] * planes} blocks, found {len(offsets)}; copy the file anew",
            path=name,
        )
    if block[0] * block[1] * page.samplesperpixel > MAX_BLOCK_BYTES:
        raise NeedsOpenSlideError(
            f"{name}: compressed blocks of {block[1]} x {block[0]} pixels are too large to "
            "decode in one piece; convert the file to a tiled TIFF",
            path=name,
        )
    return TiffImage(
        shape=shape,
        block=block,
        grid=grid,
        offsets=array("Q", offsets),
        nbytes=array("Q", nbytes),
        planes=planes,
        samples=page.samplesperpixel,
        white_is_zero=int(page.photometric) == _WHITE,
        is_tiled=page.is_tiled,
        decode=decode,
        needs_probe=int(page.compression) == APERIO_J2K_YCBCR,
    )


def _blocks(page: TiffPage, planes: int) -> tuple[tuple[int, int], Sequence[int], Sequence[int]]:
    """Return the shape of a page's blocks, and their offsets and sizes in the file."""
    if page.is_tiled:
        return (page.tilelength, page.tilewidth), page.dataoffsets, page.databytecounts
    rows = min(page.rowsperstrip, page.imagelength)
    if int(page.compression) == 1 and planes == 1:
        rows, offsets, sizes = _cut_strips(page, rows)
        return (rows, page.imagewidth), offsets, sizes
    return (rows, page.imagewidth), page.dataoffsets, page.databytecounts


def _check_samples(page: TiffPage, name: str) -> None:
    """Refuse pages that are not RGB or grey of 8 bits."""
    bits, samples = page.bitspersample, page.samplesperpixel
    photometric = int(page.photometric)
    is_grey = photometric in {_BLACK, _WHITE} and samples == 1
    is_rgb = photometric in {_RGB, _YCBCR} and samples in {3, 4}
    if bits != 8 or int(page.sampleformat) != 1 or not (is_grey or is_rgb):
        raise UnsupportedFormatError(
            f"{name}: {_NEEDED}, found {samples} samples of {bits} bits "
            f"({page.dtype}, photometric {_word(page.photometric)}); export it as 8-bit RGB",
            path=name,
        )
    if page.imagedepth != 1:
        raise UnsupportedFormatError(
            f"{name}: {_NEEDED}, found a volume of {page.imagedepth} planes; export one plane",
            path=name,
        )


def _cut_strips(page: TiffPage, rows: int) -> tuple[int, list[int], list[int]]:
    """Cut uncompressed strips into equal parts of whole rows; return rows, offsets and sizes."""
    row_bytes = page.imagewidth * page.samplesperpixel
    fewer = min(rows, max(1, STRIP_BYTES // row_bytes))
    while (
        len(page.dataoffsets) > 1 and rows % fewer
    ):  # parts of one strip must not reach into the next
        fewer -= 1
    offsets, sizes = [], []
    for strip, (offset, size) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
        strip_rows = min(rows, page.imagelength - strip * rows)
        for row in range(0, strip_rows, fewer):
            start = row * row_bytes
            offsets.append(offset + start)
            wanted = min(fewer, strip_rows - row) * row_bytes
            sizes.append(max(0, min(wanted, size - start)))
    return fewer, offsets, sizes


def _resolution(page: TiffPage) -> Spacing | None:
    """Return the spacing of the resolution tags, where a microscope could have made it."""
    values = [page.tags.valueof(tag) for tag in ("XResolution", "YResolution")]
    unit = page.tags.valueof("ResolutionUnit", default=2)
    if any(value is None or not value[1] for value in values):
        return None
    x, y = (value[0] / value[1] for value in values)
    return tag_spacing(x, y, int(unit))


def _tag_properties(page: TiffPage) -> dict[str, str]:
    properties = {
        "tiff.compression": _word(page.compression),
        "tiff.photometric": _word(page.photometric),
    }
    for tag in ("XResolution", "YResolution"):
        value = page.tags.valueof(tag)
        if value is not None and value[1]:
            properties[f"tiff.{tag}"] = f"{value[0] / value[1]:g}"
    unit = page.tags.valueof("ResolutionUnit")
    if unit is not None:
        properties["tiff.ResolutionUnit"] = _word(tifffile.RESUNIT(unit))
    return properties


def _size(page: TiffPage) -> tuple[int, int]:
    return page.imagelength, page.imagewidth


def _area(page: TiffPage) -> int:
    return int(page.imagelength * page.imagewidth)


def _like(page: TiffPage, base: TiffPage) -> bool:
    """Tell whether a page has the sample layout of the base, as a level has."""
    return (page.samplesperpixel, page.bitspersample) == (base.samplesperpixel, base.bitspersample)


def _same_aspect(shape: tuple[int, int], base: tuple[int, int]) -> bool:
    """Tell whether an image shows the field of the base; rounding a side to pixels is allowed."""
    expected = base[1] * shape[0] / base[0], base[0] * shape[1] / base[1]
    off = abs(expected[0] - shape[1]), abs(expected[1] - shape[0])
    return off[0] <= max(1, ASPECT_TOLERANCE * shape[1]) or off[1] <= 1


def _word(value: object) -> str:
    """Return the name of a TIFF constant, or its number where tifffile knows none."""
    return getattr(value, "name", str(value)).lower()
