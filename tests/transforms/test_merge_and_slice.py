from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from storage.errors import ConfigError, UnknownKeyError, UnreadableError
from transforms.conversion.merge import merge
from transforms.conversion.slicing import slice_annotations
from transforms.conversion.spec import MergeSpec, SliceSpec, load_spec


def _write(folder: Path, name: str, document: Any) -> Path:
    (folder / name).write_text(json.dumps(document))
    return folder / name


def _document(images: int, *, names: tuple[str, ...] = ("cat", "dog"), prefix: str = "a") -> dict[str, Any]:
    return {
        "info": {"year": 2024},
        "images": [
            {"id": n * 10, "file_name": f"{prefix}/{n}.jpg", "width": 9, "height": 8} for n in range(images)
        ],
        "categories": [{"id": 4 + n, "name": name} for n, name in enumerate(names)],
        "annotations": [
            {
                "id": n,
                "image_id": n * 10,
                "category_id": 4 + n % 2,
                "bbox": [0, 0, n, 1],
                "area": n,
                "iscrowd": 0,
            }
            for n in range(images)
        ],
    }


def _merge(*words: str) -> dict[str, Any]:
    report = merge(load_spec(MergeSpec, None, words))
    text = report.files[0].read_text()
    found: dict[str, Any] = json.loads(text)
    return found


def test_merged_coco_has_all_images_and_boxes_numbered_from_1(tmp_path: Path) -> None:
    one = _write(tmp_path, "one.json", _document(3))
    two = _write(tmp_path, "two.json", _document(2, prefix="b"))
    found = _merge(f"data.annotations=[{one}, {two}]", f"results_dir={tmp_path / 'out'}")
    assert (tmp_path / "out" / "output.json").is_file()
    assert [image["id"] for image in found["images"]] == [1, 2, 3, 4, 5]
    assert [image["file_name"] for image in found["images"]][3:] == ["b/0.jpg", "b/1.jpg"]
    assert [(a["id"], a["image_id"]) for a in found["annotations"]] == [(n, n) for n in range(1, 6)]
    assert [a["bbox"][2] for a in found["annotations"]] == [0, 1, 2, 0, 1]
    names = {category["id"]: category["name"] for category in found["categories"]}
    assert [names[a["category_id"]] for a in found["annotations"]] == ["cat", "dog", "cat", "cat", "dog"]


def test_class_tables_that_differ_are_refused_or_united_by_name(tmp_path: Path) -> None:
    one = _write(tmp_path, "one.json", _document(2))
    two = _write(tmp_path, "two.json", _document(2, names=("dog", "bird")))
    words = (f"data.annotations=[{one}, {two}]", f"results_dir={tmp_path / 'out'}")
    with pytest.raises(ConfigError, match="are not those of"):
        _merge(*words)
    found = _merge(*words, "data.same_categories=false")
    names = {category["id"]: category["name"] for category in found["categories"]}
    assert sorted(names.values()) == ["bird", "cat", "dog"]
    assert [names[a["category_id"]] for a in found["annotations"]] == ["cat", "dog", "dog", "bird"]


def test_results_and_classes_without_a_name_are_not_merged(tmp_path: Path) -> None:
    result = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}
    (tmp_path / "results.json").write_text(json.dumps([result]))
    words = [f"data.annotations=[{tmp_path / 'results.json'}]", f"results_dir={tmp_path}"]
    with pytest.raises(UnreadableError, match="a list of results"):
        merge(load_spec(MergeSpec, None, words))
    images = [{"id": 1, "file_name": "a.jpg"}]
    document = {"images": images, "annotations": [{**result, "category_id": 9}], "categories": []}
    (tmp_path / "results.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=r"the category ids \[9\] are not in its table"):
        merge(load_spec(MergeSpec, None, words))


def test_merged_odvg_keeps_captions_under_the_key_that_readers_expect(tmp_path: Path) -> None:
    grounded = {
        "file_name": "a.jpg",
        "height": 5,
        "width": 6,
        "grounding": {"caption": "a cat", "regions": [{"bbox": [0, 0, 1, 1], "phrase": "cat"}]},
    }

    def line(name: str, left: int) -> dict[str, Any]:
        instance = {"bbox": [left, 0, 9, 9], "label": 0, "category": "cat"}
        return {"file_name": name, "height": 5, "width": 6, "detection": {"instances": [instance]}}

    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text("\n".join(map(json.dumps, [grounded, line("b.jpg", 1), line("c.jpg", 2)])))
    two.write_text("\n".join(map(json.dumps, [line("b.jpg", 3)])))
    words = [f"data.annotations=[{one}, {two}]", "data.format=ODVG", f"results_dir={tmp_path / 'out'}"]
    merge(load_spec(MergeSpec, None, words))
    found = [json.loads(text) for text in (tmp_path / "out" / "merged.json").read_text().splitlines()]
    assert found[0] == grounded
    assert [row["file_name"] for row in found] == ["a.jpg", "b.jpg", "c.jpg"]
    assert [row["bbox"][0] for row in found[1]["detection"]["instances"]] == [1, 3]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["data.format=KITTI"], "cannot be merged"), ([], "no file"), (["data.annotations=[x]"], "results_dir")],
)
def test_a_merge_without_what_it_needs_says_so(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        merge(load_spec(MergeSpec, None, words))


def _slice(folder: Path, document: dict[str, Any], *words: str) -> dict[str, dict[str, Any]]:
    file = _write(folder, "in.json", document)
    spec = load_spec(
        SliceSpec, None, [f"data.annotation_file={file}", f"results_dir={folder / 'out'}", *words]
    )
    return {path.name: json.loads(path.read_text()) for path in slice_annotations(spec).files}


def test_a_random_part_and_its_remainder_are_the_whole(tmp_path: Path) -> None:
    document = _document(20)
    words = ["filter.split=0.25", "filter.dump_remainder=true"]
    found = _slice(tmp_path, document, *words)
    kept, rest = found["kept.json"], found["remainder.json"]
    assert len(kept["images"]) == len(kept["annotations"]) == 5
    ids = [image["id"] for image in kept["images"]]
    assert ids == sorted(ids)
    assert sorted(map(str, kept["images"] + rest["images"])) == sorted(map(str, document["images"]))
    assert kept["info"] == document["info"]
    assert all(a["image_id"] in ids for a in kept["annotations"])
    assert _slice(tmp_path, document, *words) == found
    assert _slice(tmp_path, document, *words, "filter.seed=1") != found


def test_equal_parts_differ_by_one_image_at_most(tmp_path: Path) -> None:
    found = _slice(tmp_path, _document(11), "filter.split=4")
    assert sorted(found) == [f"part_{n}.json" for n in range(4)]
    sizes = sorted(len(part["images"]) for part in found.values())
    assert sizes == [2, 3, 3, 3]


def test_a_number_takes_the_first_images(tmp_path: Path) -> None:
    found = _slice(tmp_path, _document(9), "filter.mode=number", "filter.num_samples=4")
    assert [image["id"] for image in found["kept.json"]["images"]] == [0, 10, 20, 30]


def test_classes_are_taken_or_left_and_numbered_anew_where_asked(tmp_path: Path) -> None:
    document = _document(6)
    words = ["filter.mode=category", "filter.excluded_categories=[cat]"]
    kept = _slice(tmp_path, document, *words)["kept.json"]
    assert [a["id"] for a in kept["annotations"]] == [1, 3, 5]
    assert kept["categories"] == document["categories"]
    anew = _slice(tmp_path, document, *words, "filter.reuse_categories=false")["kept.json"]
    assert anew["categories"] == [{"id": 1, "name": "dog"}]
    assert {a["category_id"] for a in anew["annotations"]} == {1}
    both = _slice(tmp_path, document, *words, "filter.dump_remainder=true")
    assert len(both["remainder.json"]["annotations"]) == 3
    with pytest.raises(UnknownKeyError, match="did you mean 'dog'"):
        _slice(tmp_path, document, "filter.mode=category", "filter.included_categories=[dgo]")


def test_file_names_fit_from_their_start(tmp_path: Path) -> None:
    document = _document(12)
    words = ["filter.mode=filename", "filter.re_patterns=['a/1', '2']"]
    kept = _slice(tmp_path, document, *words)["kept.json"]
    assert [image["file_name"] for image in kept["images"]] == ["a/1.jpg", "a/10.jpg", "a/11.jpg"]
    with pytest.raises(ConfigError, match="nothing of 12 images"):
        _slice(tmp_path, document, "filter.mode=filename", "filter.re_patterns=[x]")
    with pytest.raises(ConfigError, match="re_patterns"):
        _slice(tmp_path, document, "filter.mode=filename", "filter.re_patterns=['(']")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["filter.split=1"], "expected 2 to 3"),
        (["filter.split=1.5"], "a part below 1"),
        (["filter.split=0.1"], "nothing of 3 images"),
        (["filter.mode=size"], "filter.mode"),
        (["data.format=ODVG"], "cannot be sliced"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _slice(tmp_path, _document(3), *words)
