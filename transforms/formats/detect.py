"""What a file is, by its content first and its name second, and the reader for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import msgspec
import pyarrow as pa
from msgspec import Raw

from storage.errors import UnknownFormatError, UnreadableError
from storage.memory import no_garbage_collection
from transforms.delivery import DELIVERED_MENTIONS, Delivery, stem_of, table, without_extension
from transforms.formats.classes import is_class_list_name, read_data_yaml, read_names
from transforms.formats.coco import read_coco, read_coco_chunks
from transforms.formats.coco_images import EXPECTED as EXPECTED_COCO
from transforms.formats.cvat import cvat_of
from transforms.formats.foreign import foreign_csv, foreign_json, foreign_text, foreign_xml, is_tfrecord
from transforms.formats.gathered import Gathered, Rows
from transforms.formats.json_text import keys_of, utf8
from transforms.formats.kitti import EXPECTED as EXPECTED_KITTI
from transforms.formats.kitti import fits_kitti, read_kitti
from transforms.formats.kitti_plain import plain_kitti
from transforms.formats.labelme import is_labelme, read_labelme
from transforms.formats.markup import read_xml
from transforms.formats.odvg import EXPECTED as EXPECTED_ODVG
from transforms.formats.odvg import is_odvg, read_label_map, read_odvg
from transforms.formats.open_images import (
    is_class_descriptions,
    is_open_images,
    read_class_descriptions,
    read_open_images,
)
from transforms.formats.refs import is_image_name
from transforms.formats.splits import is_image_list, is_image_set, read_image_list, read_image_set, split_of
from transforms.formats.text import Line, is_number, lines_of, quote, text_of
from transforms.formats.tf_detection import read_pbtxt, read_tfrecord
from transforms.formats.voc import voc_of
from transforms.formats.voc_plain import plain_voc
from transforms.formats.yolo import EXPECTED as EXPECTED_YOLO
from transforms.formats.yolo import fits_yolo, is_yolo_pose, read_yolo

_LABEL_ENDINGS = {".txt", ".xml", ".json", ".jsonl"}
# fmt: off
_PLAIN_ENDINGS = {
    ".7z", ".avi", ".bat", ".bib", ".bin", ".c", ".cc", ".cfg", ".conf", ".cpp", ".css", ".cu", ".db",
    ".diff", ".docx", ".gitattributes", ".gitignore", ".go", ".gz", ".h", ".h5", ".htm", ".html",
    ".ini", ".ipynb", ".java", ".js", ".ldjson", ".lock", ".log", ".m", ".mat", ".md", ".meta", ".mkv",
    ".mov", ".mp4", ".npy", ".npz", ".onnx", ".parquet", ".pcd", ".pdf", ".pkl", ".prototxt",
    ".pt", ".pth", ".py", ".r", ".rst", ".rtf", ".sh", ".sql", ".svg", ".tar", ".tex", ".toml", ".ts",
    ".xlsx", ".zip",
}
# fmt: on
_RECORD_ENDINGS = {".tfrecord", ".tfrecords", ".record"}
_PACKED_RECORDS = (".tfrecord.gz", ".tfrecords.gz", ".record.gz")
_PROSE_NAME = re.compile(
    r"(?:readme|licen[sc]e|copying|notice|changelog|authors|contributing|citation|requirements)\b.*",
    re.IGNORECASE,
)
_BLANK = re.compile(rb"(?:\xef\xbb\xbf)?\s*\Z")
_MAC_SIDECAR = b"\x00\x05\x16\x07"
_DARKNET_DATA = re.compile(r"(?:classes|train|valid|names|backup|eval|top|results)\s*=")
_CALIBRATION = re.compile(r"(?:P[0-3]|R0_rect|R_rect\w*|Tr_\w+|calib_time|S_\d\d|K_\d\d)\s*:")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_LOOK_AT_LINES = 1000
_LOOK_AT_BYTES = 8192
_TEXTS_AT_ONCE = 4_096
_TEXT_BYTES = 65_536

OTHER = Delivery(kind="other", format="other")


def read_label(data: bytes, path: str) -> Delivery:
    """Read a file that is no image: labels, class lists, split lists, or something else (kind ``other``).

    ``path`` is relative to the data set. Content decides; the name helps where content cannot (an empty text
    is a negative sample, a list of words is a class list if it is named so). Raises :class:`UnreadableError`
    for damaged files, and :class:`UnknownFormatError` for ``.txt``, ``.xml`` and ``.json`` that are no form
    we read, naming the form that it is, or the nearest one and the line that does not fit. Files with other
    endings are read where they fit and left alone where not.
    """
    name = path.rsplit("/", 1)[-1]
    ending = _ending(name)
    if _BLANK.match(data):
        return _blank(path, name, ending)
    if data.startswith(_MAC_SIDECAR):
        return OTHER
    if is_image_name(name):
        raise UnreadableError(
            path, f"no image: it begins with {data[:8]!r}", expected="the image that its name says"
        )
    if ending in _RECORD_ENDINGS or is_tfrecord(data):
        return read_tfrecord(data, path)
    if name.lower().endswith(_PACKED_RECORDS):
        raise UnreadableError(path, "compressed records", expected="TFRecord, unpacked")
    if ending == ".pbtxt":
        return _read_pbtxt(data, path)
    if ending in _PLAIN_ENDINGS:
        return OTHER
    if ending in _LABEL_ENDINGS:
        return _read(data, path, name, ending)
    if b"\0" in data[:_LOOK_AT_BYTES] and not data.startswith(_UTF16_MARKS):
        return OTHER
    if ending in {".yaml", ".yml"}:
        return read_data_yaml(data, path) or OTHER
    if ending in {".csv", ".tsv"}:
        return _read_csv(data, path)
    try:
        return _read(data, path, name, ending)
    except UnreadableError:
        return OTHER


def read_label_parts(file: BinaryIO, path: str) -> Iterator[Delivery]:
    """Read a large JSON file, which must be seekable, in parts: together, what :func:`read_label` gives.

    COCO files are never in memory as a whole; other forms are. Errors are those of :func:`read_label`.
    """
    return read_coco_chunks(file, path, otherwise=read_label)


def read_labels(files: Iterable[tuple[str, bytes]]) -> dict[str, pa.Table]:
    """Read many files, as paths and bytes, into ``labels``, ``mentions`` and ``categories``.

    The tables are those of a :class:`Delivery` with the column ``source``, the path, after the others; they
    are built once for all files in plain forms. Errors are those of :func:`read_label`.
    """
    gathered = Gathered()
    parts: dict[str, list[pa.Table]] = {"labels": [], "mentions": [], "categories": []}
    texts: list[tuple[str, bytes]] = []

    def read(path: str, data: bytes) -> None:
        if (rows := plain_rows(data, path)) is not None:
            gathered.add(path, rows)
            return
        delivery = read_label(data, path)
        for name, tables in parts.items():
            rows_of = getattr(delivery, name)
            tables.append(rows_of.append_column("source", pa.repeat(pa.scalar(path), rows_of.num_rows)))

    def read_texts() -> None:
        fits, block = plain_kitti(texts)
        gathered.add_block([path for (path, _), fit in zip(texts, fits, strict=True) if fit], block)
        for (path, data), fit in zip(texts, fits, strict=True):
            if not fit:
                read(path, data)
        texts.clear()

    with no_garbage_collection():
        for path, data in files:
            if not may_be_plain_kitti(path, len(data)):
                read(path, data)
                continue
            texts.append((path, data))
            if len(texts) >= _TEXTS_AT_ONCE:
                read_texts()
        read_texts()
    return {name: pa.concat_tables([table, *parts[name]]) for name, table in gathered.tables().items()}


def plain_rows(data: bytes, path: str) -> Rows | None:
    """The rows of a VOC file in its plain form; None for all others."""
    return plain_voc(data, path) if path.endswith(".xml") else None


def may_be_plain_kitti(path: str, size_bytes: int) -> bool:
    """Whether a file is worth a look together with others, by :func:`.kitti_plain.plain_kitti`."""
    return path.endswith(".txt") and size_bytes <= _TEXT_BYTES and not is_image_set(path)


def _read(data: bytes, path: str, name: str, ending: str) -> Delivery:
    start = _first_character(data)
    if ending in {".json", ".jsonl"} or (start in {"{", "["} and ending != ".xml"):
        return _read_json(data, path)
    if ending == ".xml" or start == "<":
        root = read_xml(data, path)
        if form := foreign_xml(root):
            raise _not_read(path, form, line=root.line)
        if root.tag == "annotations":
            return cvat_of(root, path)
        return voc_of(root, path)
    return _read_text(data, path, name)


def _read_csv(data: bytes, path: str) -> Delivery:
    head = text_of(data, path)[:_LOOK_AT_BYTES].split("\n", 1)[0]
    if is_open_images(head):
        return read_open_images(data, path)
    if is_class_descriptions(head):
        return read_class_descriptions(data, path)
    if form := foreign_csv(head):
        raise _not_read(path, form)
    return OTHER


def _read_pbtxt(data: bytes, path: str) -> Delivery:
    # Most of these files are networks, in any encoding: only what is a label map counts.
    if b"item" not in data[:_LOOK_AT_BYTES]:
        return OTHER
    return read_pbtxt(data, path) or OTHER


def _read_json(data: bytes, path: str) -> Delivery:
    try:
        return read_coco(data, path)
    except UnreadableError as error:
        json = utf8(data, path)
        if is_odvg(json):
            return read_odvg(json, path)
        if is_labelme(keys_of(json)):
            return read_labelme(json, path)
        if (names := read_label_map(json, path)) is not None:
            return names
        if form := foreign_json(json):
            raise _not_read(path, form) from error
        try:
            keys = list(msgspec.json.decode(json, type=dict[str, Raw]))
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise error from None
        if "images" in keys or "annotations" in keys:
            raise
        found = "an object with the keys " + (", ".join(map(repr, keys[:8])) or "(none)")
        lines = path.lower().endswith(".jsonl")
        expected = EXPECTED_ODVG if lines else EXPECTED_COCO
        raise UnknownFormatError(path, found, line=1 if lines else None, expected=expected) from error


def _read_text(data: bytes, path: str, name: str) -> Delivery:
    text = text_of(data, path)
    lines = lines_of(text)
    if is_image_set(path):
        return read_image_set(lines, path)
    words = [line.split() for _, line in lines[:_LOOK_AT_LINES]]
    if any(map(fits_kitti, words)):
        return read_kitti(data, path)
    if is_yolo_pose(words):
        raise _not_read(path, "YOLO pose (boxes with keypoints)", line=lines[0][0])
    if any(map(fits_yolo, words)):
        return read_yolo(data, path)
    if is_class_list_name(name) and not any(sum(map(is_number, line)) >= 4 for line in words):
        return read_names(data, path)
    if is_image_list(lines):
        return read_image_list(lines, path)
    if is_open_images(lines[0][1]):
        return read_open_images(data, path)
    if all(_DARKNET_DATA.match(line) for _, line in lines if not line.startswith("#")):
        return Delivery(kind="other", format="darknet-data")
    if any(_CALIBRATION.match(line) for _, line in lines[:_LOOK_AT_LINES]):
        return Delivery(kind="other", format="kitti-calibration")
    if lines[0][1].startswith("# label:color_rgb"):
        return Delivery(kind="other", format="voc-labelmap")
    if _PROSE_NAME.fullmatch(name):
        return OTHER
    if form := foreign_text(lines):
        raise _not_read(path, form, line=lines[0][0])
    raise _nearest(lines, path)


def _nearest(lines: Sequence[Line], path: str) -> UnknownFormatError:
    """The error for a text that is no form at all: the form that its first line is nearest to."""
    line, text = lines[0]
    words = text.replace(",", " ").split()
    digits = sum(map(is_number, words))
    read, expected = None, f"{EXPECTED_KITTI}; {EXPECTED_YOLO}; or a list of image paths"
    if len(words) >= 9 and not is_number(words[0]) and digits >= len(words) // 2:
        read, expected = read_kitti, EXPECTED_KITTI
    elif len(words) in {15, 16} and digits == len(words):
        found = f"the number {words[0]} as class, {quote(text)}"
        return UnknownFormatError(path, found, line=line, expected=f"{EXPECTED_KITTI}, the first a name")
    elif len(words) > 1 and digits >= len(words) - 1 and is_number(words[0]):
        read, expected = read_yolo, EXPECTED_YOLO
    if "," in text and read is not None:
        return UnknownFormatError(
            path, f"commas between the columns, {quote(text)}", line=line, expected=expected
        )
    count = len(text.split())
    found = f"{count} column{'' if count == 1 else 's'}"
    if read is not None:
        try:
            read(text.encode(), path)
        except UnreadableError as error:
            found = error.found
            if error.expected != expected:
                expected = f"{expected}; here {error.expected}"
    return UnknownFormatError(path, f"{found}, {quote(text)}", line=line, expected=expected)


def _blank(path: str, name: str, ending: str) -> Delivery:
    if ending == ".txt":
        if (
            is_image_set(path)
            or is_class_list_name(name)
            or split_of(name) == without_extension(name).lower()
        ):
            return OTHER
        ref = without_extension(path)
        mention = {"kind": "label", "format": "empty", "ref": ref, "stem": stem_of(ref), "instances": 0}
        return Delivery(kind="label", format="empty", mentions=table([mention], DELIVERED_MENTIONS))
    if ending in _LABEL_ENDINGS or is_image_name(name):
        raise UnreadableError(path, "an empty file", expected=f"{ending[1:].upper()} content")
    return OTHER


def _not_read(path: str, form: str, line: int | None = None) -> UnknownFormatError:
    return UnknownFormatError(
        path,
        f"recognised as {form}, which is not read",
        line=line,
        expected="KITTI, COCO, Pascal VOC, YOLO, ODVG, LabelMe, CVAT, Open Images or TFRecord",
    )


def _first_character(data: bytes) -> str:
    head = data[:_LOOK_AT_BYTES]
    if head.startswith(_UTF16_MARKS):
        return head.decode("utf-16", errors="ignore").lstrip()[:1]
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1].decode("latin-1")


def _ending(name: str) -> str:
    dot = name.rfind(".")
    return name[dot:].lower() if dot >= 0 else ""
