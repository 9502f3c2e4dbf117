from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

DOCUMENT = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 9, "height": 8}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 1}
    ],
}


def _dropmill(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dropmill", "dataset", "annotations", *words],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_conversion_prints_what_the_target_cannot_say(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text(json.dumps(DOCUMENT))
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "data: {input_format: COCO, output_format: KITTI}\nencryption_key: x\n"
        f"coco: {{ann_file: {tmp_path / 'in.json'}}}\n"
    )
    done = _dropmill("convert", "-e", str(spec), f"results_dir={tmp_path / 'out'}", "verbose=true")
    assert done.returncode == 0, done.stderr
    assert "classes of regions to ignore, which become DontCare: 1" in done.stdout
    assert "1 images, 1 boxes, 1 files" in done.stdout
    assert done.stdout.endswith("Annotation conversion finished successfully.\n")
    assert "encryption_key" in done.stderr
    assert (tmp_path / "out" / "a.txt").read_text().startswith("DontCare 0.00 0 0.00 1.00 2.00 4.00 6.00")


def test_an_unsupported_pair_ends_with_status_2_and_writes_nothing(tmp_path: Path) -> None:
    done = _dropmill("convert", "data.output_format=LabelMe", f"results_dir={tmp_path / 'out'}", "--json")
    assert done.returncode == 2
    assert "KITTI to LabelMe is not supported" in done.stderr
    assert not (tmp_path / "out").exists()


def test_merge_and_slice_give_one_line_of_json(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text(json.dumps(DOCUMENT))
    words = [f"data.annotations=[{tmp_path / 'in.json'}]", f"results_dir={tmp_path}", "--json"]
    done = _dropmill("merge", *words)
    assert json.loads(done.stdout)["files"] == [str(tmp_path / "output.json")]
    words = [f"data.annotation_file={tmp_path / 'in.json'}", f"results_dir={tmp_path}", "--json"]
    done = _dropmill("slice", *words, "filter.mode=number")
    assert json.loads(done.stdout)["images"] == 1
