"""The page's interface, on a lake of rendered scenes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from dropmill.commands import Commands
from dropmill.page.app import page_app
from dropmill.page.behind import Page, make_page
from dropmill.page.gallery import Filters, key_of, page_of
from dropmill.page.open_lake import OpenLake
from ingest.derive import Settings
from storage import schemas
from storage.lake import Lake
from tests.dropmill.page_lake import HOSTILE_CLASS, HOSTILE_KEY, make_lake
from tests.ingest.mill import KITTI_CAR, Mill, picture

_HAS_CLASS = "EXISTS (FROM annotations a WHERE a.sample = i.sample AND category ="
_HAS_FINDING = "EXISTS (FROM findings f WHERE f.sample = i.sample AND rule ="


@pytest.fixture(scope="module")
def mill(tmp_path_factory: pytest.TempPathFactory) -> Mill:
    return make_lake(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def client(mill: Mill, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    page = make_page(str(mill.lake_folder), bucket=mill.store.url, cache=tmp_path_factory.mktemp("cache"))
    with TestClient(page_app(page), base_url="http://localhost") as client:
        yield client


def ask(client: TestClient, path: str, **parameters: Any) -> Any:
    found = client.get(f"/api/v1/{path}", params=parameters)
    assert found.status_code == 200, found.text
    return found.json()


def every_sample(client: TestClient, **parameters: Any) -> list[dict[str, Any]]:
    """All pages of the gallery, one after the other."""
    samples: list[dict[str, Any]] = []
    after = {}
    while True:
        found = ask(client, "samples", **parameters, **after)
        samples += found["samples"]
        if found["next"] is None:
            return samples
        after = {"after": found["next"]}


def names(samples: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(sample["dataset"], sample["sample"]) for sample in samples]


def test_data_sets_are_counted_as_the_tables_have_them(client: TestClient, mill: Mill) -> None:
    found = ask(client, "datasets", wait_s=60)
    assert found["state"] == "current"
    one = found["datasets"][0]
    (counts,) = mill.rows(
        """SELECT (SELECT count(*) FROM images WHERE dataset = 'aircraft') AS images,
                  (SELECT count(*) FROM annotations WHERE dataset = 'aircraft' AND NOT ignore) AS boxes"""
    )
    assert (one["images"], one["boxes"]) == (counts["images"], counts["boxes"])
    assert one["gate"] in {"warn", "fail"}
    assert one["reasons"]
    rules = mill.rows(
        """SELECT rule, count(*) AS findings FROM findings WHERE dataset = 'aircraft'
           GROUP BY rule ORDER BY rule"""
    )
    assert (
        sorted(
            ({"rule": rule["rule"], "findings": rule["findings"]} for rule in one["rules"]),
            key=lambda rule: rule["rule"],
        )
        == rules
    )
    assert sum(one["drops"][0]["counts"].values()) == one["boxes"]
    assert [dataset["dataset"] for dataset in found["datasets"]] == ["aircraft", "odd"]


def test_counts_follow_commits_and_are_kept_for_the_next_start(tmp_path: Path) -> None:
    mill = Mill(tmp_path / "drops", tmp_path / "lake", Settings())
    mill.image("d/a.png")
    mill.ingest()

    def fresh() -> TestClient:
        return TestClient(
            page_app(make_page(str(mill.lake_folder), cache=tmp_path / "cache")), base_url="http://localhost"
        )

    client = fresh()
    assert ask(client, "datasets", wait_s=60)["datasets"][0]["images"] == 1
    mill.image("d/b.png")
    mill.ingest()
    kept = ask(fresh(), "datasets")
    assert (kept["state"], kept["datasets"][0]["images"]) == ("counting", 1)
    assert ask(client, "datasets", wait_s=60)["datasets"][0]["images"] == 2


@pytest.mark.parametrize("limit", [1, 5, 200])
def test_pages_by_key_give_every_sample_once_and_in_order(client: TestClient, mill: Mill, limit: int) -> None:
    rows = mill.rows("SELECT dataset, sample FROM images ORDER BY dataset, stem, sample")
    assert names(every_sample(client, limit=limit)) == [(row["dataset"], row["sample"]) for row in rows]


def test_pages_are_in_order_where_drops_overlap(tmp_path: Path) -> None:
    mill = Mill(tmp_path / "drops", tmp_path / "lake", Settings())
    for drop in range(3):
        for number in range(drop, 18, 3):
            mill.image(f"{'ab'[number % 2]}/{'xy'[number // 9]}/{number:02}.png", 8, 8)
        mill.ingest()
    client = TestClient(
        page_app(make_page(str(mill.lake_folder), cache=tmp_path / "cache")), base_url="http://localhost"
    )
    rows = mill.rows("SELECT dataset, sample FROM images ORDER BY dataset, stem, sample")
    assert len(rows) == 18
    for limit in (1, 4, 7):
        assert names(every_sample(client, limit=limit)) == [(row["dataset"], row["sample"]) for row in rows]


def test_a_search_that_runs_out_of_time_goes_on_where_it_stopped(tmp_path: Path) -> None:
    mill = Mill(tmp_path / "drops", tmp_path / "lake", Settings())
    for drop in range(3):
        for number in range(drop, 12, 3):
            mill.image(f"{'ab'[number % 2]}/{number:02}.png", 8, 8)
            mill.write(f"{'ab'[number % 2]}/{number:02}.txt", KITTI_CAR.format(1, 1, 5 + number % 2, 5))
        mill.ingest()
    rows = mill.rows("SELECT dataset, sample FROM images ORDER BY dataset, stem, sample")
    lake = OpenLake(str(mill.lake_folder))
    for filters, wanted in (
        (Filters(), rows),
        (Filters(category="Car", dataset="b"), [row for row in rows if row["dataset"] == "b"]),
        (Filters(category="Truck"), []),
    ):
        found: list[tuple[str, str]] = []
        after, pages = None, 0
        while pages == 0 or after:
            page = page_of(lake, filters, after=after, limit=5, budget_s=0)
            found += [(sample.dataset, sample.sample) for sample in page.samples]
            assert len(page.samples) <= 5
            after, pages = key_of(page.next) if page.next else None, pages + 1
            assert pages < 50
        assert found == [(row["dataset"], row["sample"]) for row in wanted]


def test_a_sample_has_its_boxes_outlines_and_findings(client: TestClient, mill: Mill) -> None:
    samples = every_sample(client, dataset="aircraft", limit=10)
    rows = mill.rows(
        "SELECT sample, count(*) AS n FROM annotations WHERE dataset = 'aircraft' GROUP BY sample"
    )
    assert {s["sample"]: len(s["boxes"]) for s in samples if s["boxes"]} == {
        row["sample"]: row["n"] for row in rows
    }
    outlined = next(sample for sample in samples if sample["boxes"])
    (box,) = (box for box in outlined["boxes"][:1])
    (row,) = mill.lake.sql(
        "SELECT * FROM annotations WHERE dataset = 'aircraft' AND source = $1 AND instance = $2",
        parameters=[box["source"], box["instance"]],
    ).to_pylist()
    assert {name: box[name] for name in ("xmin", "ymin", "xmax", "ymax")} == {
        name: row[name] for name in ("xmin", "ymin", "xmax", "ymax")
    }
    assert box["shape"]["polygons"] or box["shape"]["runs"]
    found = mill.rows("SELECT sample, rule FROM findings f SEMI JOIN images USING (dataset, sample)")
    assert sorted((s["sample"], f["rule"]) for s in every_sample(client) for f in s["findings"]) == sorted(
        (row["sample"], row["rule"]) for row in found
    )
    one = ask(client, "sample", dataset="aircraft", sample=outlined["sample"])
    assert len(one["boxes"]) == len(outlined["boxes"])


def test_a_pseudo_mask_comes_as_runs_over_the_whole_image(client: TestClient) -> None:
    (sample,) = ask(client, "samples", dataset="odd")["samples"]
    runs = sample["boxes"][0]["mask"]["runs"]
    assert (runs["width"], runs["height"], sum(runs["counts"])) == (100, 50, 5000)
    assert sum(runs["counts"][1::2]) == 600


@pytest.mark.parametrize(
    ("parameters", "where"),
    [
        ({"category": "helicopter"}, f"{_HAS_CLASS} 'helicopter')"),
        ({"category": HOSTILE_CLASS}, "i.dataset = 'odd'"),
        ({"rule": "zero_area"}, f"{_HAS_FINDING} 'zero_area')"),
        ({"split": "val"}, "split = 'val'"),
        ({"no_split": True}, "split IS NULL"),
        (
            {"category": "airliner", "split": "train", "dataset": "aircraft"},
            f"{_HAS_CLASS} 'airliner') AND split = 'train'",
        ),
        (
            {"sql": "SELECT dataset, sample FROM boxes WHERE area > 600", "split": "train"},
            "EXISTS (FROM boxes b WHERE b.sample = i.sample AND b.area > 600) AND split = 'train'",
        ),
        ({"sql": "SELECT dataset, stem FROM images WHERE stem LIKE '%1'"}, "stem LIKE '%1'"),
        (
            {"sql": "SELECT dataset, stem FROM images", "rule": "zero_area", "category": "airliner"},
            f"{_HAS_FINDING} 'zero_area') AND {_HAS_CLASS} 'airliner')",
        ),
        ({"category": "unheard of"}, "false"),
        ({"dataset": "unheard of"}, "false"),
    ],
)  # fmt: skip
def test_the_gallery_shows_what_is_asked_for(
    client: TestClient, mill: Mill, parameters: dict[str, Any], where: str
) -> None:
    rows = mill.rows(f"SELECT dataset, sample FROM images i WHERE {where} ORDER BY dataset, stem, sample")
    for limit in (2, 100):
        assert names(every_sample(client, limit=limit, **parameters)) == [
            (r["dataset"], r["sample"]) for r in rows
        ]


def test_a_picture_is_made_once_for_each_version(mill: Mill, tmp_path: Path) -> None:
    page = make_page(str(mill.lake_folder), bucket=mill.store.url, cache=tmp_path, cache_bytes=20_000)
    client = TestClient(page_app(page), base_url="http://localhost")
    sample = ask(client, "samples", dataset="aircraft", limit=1)["samples"][0]
    asked = {"dataset": "aircraft", "sample": sample["sample"], "version": sample["version"]}
    found = client.get("/api/v1/picture", params={**asked, "size": 100})
    assert found.headers["content-type"] == "image/jpeg"
    assert "immutable" in found.headers["cache-control"]
    with Image.open(io.BytesIO(found.content)) as image:
        assert image.size == (sample["width"], sample["height"])
    kept = list((tmp_path / "thumbnails").glob("*.jpg"))
    assert len(kept) == 1
    before = kept[0].stat().st_ino
    assert client.get("/api/v1/picture", params={**asked, "size": 256}).content == found.content
    assert kept[0].stat().st_ino == before
    for sample in every_sample(client, dataset="aircraft"):
        client.get("/api/v1/picture", params={"dataset": "aircraft", "sample": sample["sample"]})
    assert sum(path.stat().st_size for path in (tmp_path / "thumbnails").glob("*")) <= 20_000


def test_a_picture_is_turned_as_exif_says_and_refused_where_the_image_has_changed(tmp_path: Path) -> None:
    mill = Mill(tmp_path / "drops", tmp_path / "lake", Settings())
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    with Image.open(io.BytesIO(picture(80, 40))) as image:
        image.save(file, "JPEG", exif=exif)
    mill.write("d/turned.jpg", file.getvalue())
    mill.image("d/gone.png")
    mill.ingest()
    mill.write("d/gone.png", picture(10, 10) + b"\0" * 50)
    client = TestClient(
        page_app(make_page(str(mill.lake_folder), cache=tmp_path / "c")), base_url="http://localhost"
    )
    found = client.get("/api/v1/picture", params={"dataset": "d", "sample": "turned"})
    with Image.open(io.BytesIO(found.content)) as image:
        assert image.size == (40, 80)
    gone = client.get("/api/v1/picture", params={"dataset": "d", "sample": "gone"})
    assert (gone.status_code, "replaced" in gone.json()["error"]) == (404, True)
    elsewhere = make_page(str(mill.lake_folder), bucket=f"file://{tmp_path}/other", cache=tmp_path / "c2")
    client = TestClient(page_app(elsewhere), base_url="http://localhost")
    refused = client.get("/api/v1/picture", params={"dataset": "d", "sample": "turned"})
    assert (refused.status_code, "outside" in refused.json()["error"]) == (404, True)


def test_quarantine_batches_runs_and_models_are_told(client: TestClient) -> None:
    found = ask(client, "quarantine", dataset="odd", wait_s=60)
    assert [(one["key"], bool(one["error"])) for one in found["objects"]] == [(HOSTILE_KEY, True)]
    every = ask(client, "quarantine")
    first = ask(client, "quarantine", limit=1)
    rest = ask(client, "quarantine", after=first["next"])["objects"] if first["next"] else []
    assert first["objects"] + rest == every["objects"]
    batches = ask(client, "batches", limit=1)
    assert batches["batches"][0]["number"] == 2
    assert ask(client, "batches", before=batches["next"])["batches"][0]["number"] == 1
    assert ask(client, "runs")["runs"][0]["snapshot"] == {"images": 1, "annotations": 1}
    model = ask(client, "models")["models"][0]
    assert (model["run"], model["labelled_images"], model["run_state"]) == ("detector-1", 20, "succeeded")
    assert [one["run"] for one in ask(client, "runs", run="detector-1")["runs"]] == ["detector-1"]
    assert ask(client, "models", model="detector-1/best.pt")["models"] == [model]
    assert [one["kind"] for one in ask(client, "models", run="detector-1")["models"]] == [
        "checkpoint",
        "card",
    ]
    card = ask(client, "card", model="detector-1/best.pt")
    assert (card["run"], card["text"]) == ("detector-1", f"# Finds {HOSTILE_CLASS}\n")
    assert client.get("/api/v1/card", params={"model": "detector-1"}).status_code == 404
    assert ask(client, "runs", run="'")["runs"] == ask(client, "models", run="other")["models"] == []
    (seen,) = ask(client, "lineage", model="detector-1/best.pt")["objects"]
    assert seen == {"kind": "image", "now": "current", "objects": 1}
    assert client.get("/api/v1/lineage", params={"model": "unheard of"}).status_code == 404
    curves = ask(client, "curves", run="detector-1")
    assert curves["epochs"] == [1, 2, 3, 4, 5, 6]
    assert curves["curves"]["val_map50"] == [None, 0.2, None, 0.4, None, pytest.approx(0.6)]
    assert client.get("/api/v1/curves", params={"run": "../../secret"}).status_code == 404


def test_an_old_run_and_its_models_are_found_among_many_newer_ones(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    now = datetime(2026, 1, 31, tzinfo=UTC)
    runs = [{"run": f"r{n}", "step": "train", "dataset": "d", "state": "succeeded", "snapshot": "{}",
             "parameters": "{}", "metrics": "{}", "outputs": "{}", "labelled_images": 1,
             "submitted_at": now + timedelta(hours=n)} for n in range(501)]  # fmt: skip
    models = [{"model": f"r{n}/m.pt", "run": f"r{n}", "dataset": "d", "kind": "checkpoint", "uri": "file:///m",
               "architecture": "net", "categories": [], "size_bytes": 1, "sha256": "0", "metrics": "{}",
               "snapshot": "{}", "made_at": now + timedelta(hours=n)} for n in range(501)]  # fmt: skip
    lake.put("runs", pa.Table.from_pylist(runs, schema=schemas.RUNS), keys=["run"])
    lake.put("models", pa.Table.from_pylist(models, schema=schemas.MODELS), keys=["model"])
    page = make_page(str(tmp_path / "lake"), cache=tmp_path / "cache")
    client = TestClient(page_app(page), base_url="http://localhost")
    assert "r0" not in {one["run"] for one in ask(client, "runs")["runs"]}
    assert [one["run"] for one in ask(client, "runs", run="r0")["runs"]] == ["r0"]
    for wanted in ({"run": "r0"}, {"model": "r0/m.pt"}):
        assert [one["model"] for one in ask(client, "models", **wanted)["models"]] == ["r0/m.pt"]
    assert ask(client, "curves", run="r0")["epochs"] == []
    assert ask(client, "lineage", model="r0/m.pt")["objects"] == []


def test_the_console_reads_within_bounds(client: TestClient) -> None:
    def sql(query: str, **more: Any) -> Any:
        return client.post("/api/v1/sql", json={"query": query, **more})

    found = sql(
        "SELECT 9007199254740993 AS n, 'nan'::DOUBLE AS x, [1, 2] AS l, DATE '2026-01-31' AS d;"
    ).json()
    assert found["rows"] == [["9007199254740993", None, [1, 2], "2026-01-31"]]
    cut = sql("SELECT range AS n FROM range(100) ORDER BY n DESC -- the last first", max_rows=3).json()
    assert (cut["rows"], cut["more"]) == ([[99], [98], [97]], True)
    assert sql("DESCRIBE images").json()["rows"]
    for query, word in (
        ("DROP TABLE images", "read only"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("SELECT 1) TO 'x' --", "SQL"),
        ("SELECT * FROM read_text('/etc/passwd')", "SQL"),
        ("SELECT nothing FROM images", "nothing"),
        ("SELECT '290000-01-01'::DATE AS day", "column::VARCHAR"),
    ):
        refused = sql(query)
        assert (refused.status_code, word in refused.json()["error"]) == (400, True), refused.text
    table = client.post("/api/v1/sql.csv", json={"query": "SELECT 'a,\"b' AS x, 1 AS y"})
    assert table.text == 'x,y\n"a,""b",1\n'
    assert {table["name"] for table in ask(client, "tables")["tables"]} >= {"images", "boxes", "quarantine"}


def test_only_a_service_with_a_token_changes_something_and_only_for_who_shows_it(
    mill: Mill, tmp_path: Path
) -> None:
    def client_of(page: Page) -> TestClient:
        return TestClient(page_app(page), base_url="http://localhost")

    body = {"keys": [HOSTILE_KEY]}
    alone = client_of(make_page(str(mill.lake_folder), cache=tmp_path))
    assert (
        alone.post("/api/v1/quarantine/retry", json=body, headers={"Authorization": "Bearer t"}).status_code
        == 403
    )
    commands = Commands()
    served = client_of(make_page(str(mill.lake_folder), cache=tmp_path, commands=commands, token="t0ken"))
    shown = {"Authorization": "Bearer t0ken"}
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic t0ken"},
        {"Cookie": "token=t0ken"},
    ):
        assert served.post("/api/v1/quarantine/retry", json=body, headers=headers).status_code == 401
    assert served.post("/api/v1/quarantine/drop", json={}, headers=shown).status_code == 400
    assert commands.next() is None
    assert served.post("/api/v1/quarantine/retry", json=body, headers=shown).status_code == 202
    command = commands.next()
    assert command is not None
    assert (command.action, command.keys) == ("retry", (HOSTILE_KEY,))


def test_the_page_answers_to_its_own_names_alone_and_binds_the_browser(client: TestClient) -> None:
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8080", ""):
        refused = client.get("/api/v1/now", headers={"Host": host})
        assert refused.status_code == 421
    for host in ("localhost", "127.0.0.1:8080", "[::1]:8080"):
        found = client.get("/api/v1/now", headers={"Host": host})
        assert found.status_code == 200
        assert "access-control-allow-origin" not in found.headers
    for path in ("/", "/assets/main.js", "/api/v1/openapi.json", "/api/v1/nothing"):
        policy = client.get(path).headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy


def test_the_assets_ask_for_nothing_from_elsewhere_and_insert_no_markup() -> None:
    from dropmill.page.app import ASSETS

    for path in ASSETS.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, path
        assert not any(word in text for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(")), (
            path
        )


def test_without_a_lake_the_page_says_so(tmp_path: Path) -> None:
    client = TestClient(page_app(make_page(str(tmp_path), cache=tmp_path)), base_url="http://localhost")
    for path in ("now", "datasets", "samples", "runs"):
        found = client.get(f"/api/v1/{path}")
        assert (found.status_code, "no lake" in found.json()["error"]) == (503, True)
    assert client.get("/").status_code == 200
