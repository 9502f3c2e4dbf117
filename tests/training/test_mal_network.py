from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from storage.errors import ConfigError, TrainingError, UnknownKeyError
from training.mal import auto_label_spec
from training.mal.auto_label_spec import load_auto_label_spec
from training.mal.folded import fold
from training.mal.network import MalNetwork, build_network, size_groups
from training.mal.pretrained import load_pretrained
from training.mal.spec import DatasetSpec, MalSpec, ModelSpec, load_spec, meaningless

timm = pytest.importorskip("timm")

SEED_SPEC = """
strategy: 'fsdp'
results_dir: '/path/to/result/dir'
dataset:
  train_ann_path: '/datasets/coco/annotations/instances_train2017.json'
  train_img_dir: '/datasets/coco/raw-data/train2017'
  load_mask: True
  crop_size: 512
inference: {ann_path: '/dataset/sample.json', label_dump_path: '/dataset/out.json'}
model: {arch: 'vit-mae-base/16'}
train:
  num_epochs: 10
  save_every_k_epoch: 5
  val_interval: 5
  batch_size: 4
  use_amp: True
  optim_momentum: 0.9
  lr: 0.0000015
  wd: 5e-4
  mask_thres: [0.1]
"""


def small(**changes: object) -> ModelSpec:
    return replace(
        ModelSpec(arch="mobilenetv2_050", mask_head_hidden_channel=16, mask_head_out_channel=16),
        **changes,  # type: ignore[arg-type]
    )


def test_a_spec_of_version_5_0_loads_as_it_is_and_overrides_go_over_it(tmp_path: Path) -> None:
    path = tmp_path / "mal.yaml"
    path.write_text(SEED_SPEC)
    spec = load_spec(path, ["train.lr=1e-5", "dataset.crop_size=256", "model.frozen_stages=[0,1]"])
    assert spec.strategy == "fsdp"
    assert (spec.train.save_every, spec.train.validate_every) == (5, 5)
    assert (spec.train.lr, spec.train.wd, spec.dataset.crop_size) == (1e-5, 5e-4, 256)
    assert spec.model.frozen_stages == (0, 1)
    assert spec.train.crf_num_iter == MalSpec().train.crf_num_iter == 100


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.crf_zetta=1", "did you mean 'train.crf_zeta'"),
        ("train.crf_kernel_size=4", "train.crf_kernel_size: found 4; expected an odd number"),
        ("train.mask_thres=[0.1,0.2]", "expected one or three"),
        ("train.num_epochs=many", "train.num_epochs: found 'many'"),
        ("strategy=horovod", "expected one of auto, ddp, fsdp"),
        ("dataset=5", "dataset: found 5"),
        ("nonsense", "expected key=value"),
    ],
)
def test_a_wrong_key_or_value_is_named(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_spec(None, [override])
    assert said in str(caught.value)


def test_auto_label_takes_the_keys_of_both_generations(tmp_path: Path) -> None:
    old = tmp_path / "old.yaml"
    old.write_text(
        "gpu_ids: [0]\nresults_dir: /results\ncheckpoint: /m.pth\nmodel: {arch: vit-mae-base/16}\n"
        "inference: {load_mask: False, ann_path: a.json, img_dir: b, label_dump_path: c.json}\n"
    )
    new = tmp_path / "new.yaml"
    new.write_text(
        "autolabel_type: mal\nresults_dir: /results\nbatch_size: 8\n"
        "mal: {checkpoint: /m.pth, inference: {ann_path: a.json, img_dir: b, label_dump_path: c.json}}\n"
    )
    first, second = load_auto_label_spec(old), load_auto_label_spec(new)
    assert first.checkpoint == second.checkpoint == "/m.pth"
    assert first.inference.ann_path == second.inference.ann_path == "a.json"
    assert second.inference.batch_size == 8
    assert auto_label_spec.meaningless(first) == []
    assert auto_label_spec.meaningless(load_auto_label_spec(old, ["num_gpus=4", "inference.num_gpus=2"])) == [
        "num_gpus", "inference.num_gpus",
    ]  # fmt: skip
    with pytest.raises(UnknownKeyError, match=r"inference\.img_dir"):
        load_auto_label_spec(old, ["inference.imgdir=x"])
    with pytest.raises(ConfigError, match="autolabel_type: found 'sam'"):
        load_auto_label_spec(old, ["autolabel_type=sam"])


def test_masks_are_a_quarter_of_the_crop_at_every_scale_of_the_box() -> None:
    network = MalNetwork(small(), crop_size=64).eval()
    with torch.inference_mode():
        logits = network(torch.randn(3, 3, 64, 64), torch.tensor([100.0, 5000.0, 50000.0]))
    assert logits.shape == (3, 1, 16, 16)
    assert bool((logits != 0).any(dim=(1, 2, 3)).all())


def test_the_limits_of_size_belong_to_the_smaller_group() -> None:
    assert size_groups(torch.tensor([1.0, 1024, 1024.5, 9216, 9217, 1e9])).tolist() == [0, 0, 1, 1, 2, 2]


def test_a_crop_has_the_same_mask_whatever_it_is_in_a_batch_with() -> None:
    network = MalNetwork(small(), crop_size=64).eval()
    crops, areas = torch.randn(3, 3, 64, 64), torch.tensor([100.0, 5000.0, 50000.0])
    with torch.inference_mode():
        together = network(crops, areas)
        alone = torch.cat([network(crops[i : i + 1], areas[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("arch", ["vit-deit-tiny/16", "vit-mae-huge/14"])
def test_transformers_of_the_documentation_make_masks(arch: str) -> None:
    # On "meta" nothing is computed: the shapes of the largest are seen without its 630 million weights.
    device = "cpu" if "tiny" in arch else "meta"
    with torch.device(device):
        network = MalNetwork(small(arch=arch), crop_size=128).eval()
        crops = torch.zeros(1, 3, 128, 128)
        features = network.backbone(crops)
        side = 8 if "16" in arch else 9
        assert features.shape == (1, network.backbone.out_channels, side, side)
    if device == "cpu":
        assert network(crops, torch.tensor([5000.0])).shape == (1, 1, 32, 32)


def test_frozen_stages_are_not_trained() -> None:
    network = MalNetwork(small(frozen_stages=(0, 1)), crop_size=64)
    for number, stage in enumerate(network.backbone.stages):
        trained = [parameter.requires_grad for parameter in stage.parameters()]
        assert all(trained) if number > 1 else not any(trained)
    with pytest.raises(ConfigError, match="frozen_stages: 99"):
        MalNetwork(small(frozen_stages=(99,)), crop_size=64)


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        ("vit-mae-bass/16", "did you mean 'vit-mae-base/16'"),
        ("mobilenetv2_10", "did you mean"),
        ("fan_tiny_12_p16_224", "FAN networks are not built here"),
        ("vit_tiny_patch16_224", "strides 8, 16 and 32"),
    ],
)
def test_an_architecture_that_is_not_to_be_had_is_named(arch: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MalNetwork(small(arch=arch), crop_size=64)
    assert said in str(caught.value)


def test_imagenets_weights_from_a_package_are_taken_by_their_order(efficientnet_lite0: Path) -> None:
    spec = MalSpec(model=small(arch="efficientnet_lite0"))
    network = build_network(spec)
    count = load_pretrained(network, str(efficientnet_lite0))
    source = list(torch.load(efficientnet_lite0, map_location="cpu", weights_only=True).values())
    assert count == sum(1 for tensor in network.backbone.net.state_dict().values() if tensor.dim())
    assert torch.equal(network.backbone.net.conv_stem.weight, source[0])


def test_position_embeddings_of_another_grid_are_resized(tmp_path: Path) -> None:
    large = MalNetwork(small(arch="vit-deit-tiny/16"), crop_size=128)
    torch.save({"model": large.backbone.net.state_dict()}, tmp_path / "mae.pth")
    network = MalNetwork(small(arch="vit-deit-tiny/16"), crop_size=64)
    assert load_pretrained(network, (tmp_path / "mae.pth").as_uri()) == len(network.backbone.net.state_dict())
    assert torch.equal(
        network.backbone.net.blocks[3].attn.qkv.weight, large.backbone.net.blocks[3].attn.qkv.weight
    )


def test_weights_of_another_network_and_hostile_files_are_refused(tmp_path: Path) -> None:
    network = MalNetwork(small(), crop_size=64)
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "bad.pth").write_bytes(b"cos\nsystem\n(S'echo hello'\ntR.")
    with pytest.raises(TrainingError, match=r"0 of the \d+ tensors"):
        load_pretrained(network, str(tmp_path / "other.pth"))
    with pytest.raises(TrainingError, match="cannot be read as a torch file"):
        load_pretrained(network, str(tmp_path / "bad.pth"))
    with pytest.raises(TrainingError, match="no such file"):
        load_pretrained(network, str(tmp_path / "none.pth"))


def test_keys_that_steer_nothing_are_named() -> None:
    spec = load_spec(None, ["evaluate.comp_clustering=True", "inference.num_gpus=2", "wandb=x"])
    assert meaningless(spec) == ["wandb", "evaluate.comp_clustering", "inference.num_gpus"]
    assert meaningless(load_spec(None)) == []


def test_a_folded_network_gives_the_masks_it_gave_without_normalising() -> None:
    network = build_network(
        MalSpec(model=small(arch="efficientnet_lite0"), dataset=DatasetSpec(crop_size=64))
    )
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
    crops, areas = torch.rand(2, 3, 64, 64), torch.tensor([500.0, 20000.0])
    with torch.inference_mode():
        before = network.eval()(crops, areas)
        after = fold(network)(crops, areas)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3 * float(before.std()))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
