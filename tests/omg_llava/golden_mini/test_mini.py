"""The small record that comes along: parity with the official model where the recorded folder is absent."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from omg_llava import open_vocabulary
from omg_llava.assistant import Assistant
from omg_llava.backbone import Backbone
from omg_llava.config import BackboneConfig, ImageConfig, SegmenterConfig
from omg_llava.conversion.keys import perception_targets
from omg_llava.decoder import ClassHead, outside_predicted_mask
from omg_llava.fusion import FusionSettings, instances, panoptic_map, panoptic_segments
from omg_llava.generation import Row, Sampling, generate, prefill
from omg_llava.lora import without_lora
from omg_llava.model import OmgLlava
from omg_llava.perception_prior import perception_prior
from omg_llava.preprocessing import SquareFrame, square_pixels
from omg_llava.sequence import Placeholders, SplicedBatch, splice, splice_batch
from omg_llava.stopping import StopRule
from omg_llava.training.losses import MaskLossConfig, mask_losses, text_loss, uncertain_points
from omg_llava.video import match_queries
from omg_llava.visual_prompts import PromptSet, mask_centres_xy
from omg_llava.vocabulary import IMAGE
from omgbench.metrics import video_panoptic as vpq

from .mini import Record, Tensors, build, own_outputs, read_record

LAST = 4
"""Of the recorded predictions."""


@pytest.fixture(scope="module")
def record() -> Record:
    return read_record()


@pytest.fixture(scope="module")
def official(record: Record) -> Tensors:
    return record.official


@pytest.fixture(scope="module")
def assistant(record: Record, tmp_path_factory: pytest.TempPathFactory) -> Assistant:
    return build(record, tmp_path_factory.mktemp("mini"))


@pytest.fixture(scope="module")
def model(assistant: Assistant) -> OmgLlava:
    return assistant.model


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def close(found: torch.Tensor, expected: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=1e-4)


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Exactly, whatever the types."""
    assert torch.equal(found.to(expected.dtype), expected)


def test_picture(official: Tensors) -> None:
    recorded = {name: official[f"0_preprocess/landscape_{name}"] for name in ("image", "padded", "pixels")}
    image, side = Image.fromarray(recorded["image"].numpy()), recorded["pixels"].shape[-1]
    pixels, frame = square_pixels(image, ImageConfig(side=side))
    same(torch.from_numpy(np.array(frame.pad(image, ImageConfig().mean))), recorded["padded"])
    close(pixels, recorded["pixels"], atol=2e-2)
    assert (pixels - recorded["pixels"]).abs().median() < 1e-5
    same(frame.pad_masks(official["0_preprocess/landscape_mask"]), official["0_preprocess/landscape_mask_padded"])
    points = frame.points_xy(official["0_preprocess/landscape_points"]) * (frame.edge / side)
    close(points, official["0_preprocess/landscape_points_padded"], atol=1e-5)


def test_first_stage_of_the_backbone(official: Tensors) -> None:
    """A corner of a picture; stage 1 sees six cells around, so the inner half does not miss what was cut off."""
    weights = {
        target.name.removeprefix("perception.backbone."): tensor.float()
        for name, tensor in official.items()
        if name.startswith("backbone/")
        for target in perception_targets(name.removeprefix("backbone/"))
    }
    width = weights["embeddings.patch_embeddings.bias"].shape[0]
    backbone = Backbone(BackboneConfig(depths=(2, 1, 1, 1), widths=(width, 8, 8, 8), clip_dim=8)).eval()
    missing, surplus = backbone.load_state_dict(weights, strict=False)
    assert not surplus and all(name.startswith(("stages.1", "stages.2", "stages.3")) for name in missing)
    stem = backbone.embeddings(official["a_backbone/images"])
    close(stem, official["a_backbone/stem"], atol=3e-5)
    expected = official["a_backbone/feat0"]
    found = backbone.stages[0](stem)[..., : expected.shape[-2], : expected.shape[-1]]
    close(found, expected, atol=3e-5)


@pytest.mark.parametrize("kind", ["point", "box", "region", "object"])
def test_where_attention_is_blocked(
    official: Tensors, model: OmgLlava, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder's loop, given the recorded mask logits in place of its own."""
    stage, prefix = ("c_decoder_rect", "") if kind == "object" else ("c_prompts", f"{kind}_")
    expected = [official[name] for step in range(3) if (name := f"{stage}/{prefix}attn_mask_{step}") in official]
    if kind == "object":
        logits, rule = [official[f"{stage}/mask_logits_0"][:, :, None]], outside_predicted_mask
        blocked, hw = [item[0] for item in expected], (128, 256)
    else:
        blocked, hw = [item[:, 0] for item in expected], (128, 128)
        n = len(blocked[0])
        logits = [
            official.get(f"{stage}/{prefix}mask_logits_{step}", torch.zeros(n, 1, 32, 32))[None] for step in range(3)
        ]
        values = official.get(f"{stage}/{prefix}prompts", torch.zeros(n, 2))
        kinds = {"point": "point", "box": "box", "region": "mask"}
        rule = PromptSet(kinds[kind], values, hw).rule()  # type: ignore[arg-type]
    features = model.perception.features(torch.zeros(1, 3, *hw))
    queries = torch.zeros(1, len(blocked[0]), features.mask_features.shape[2])
    drawn = iter([*logits, *[logits[-1]] * 3])
    monkeypatch.setattr(model.perception.decoder, "masks", lambda queries, features: next(drawn))
    decoded = model.perception.decoder(queries, queries, features, rule=rule, isolated=True, keep_steps=True)
    for step, wanted in zip(decoded.steps, blocked, strict=False):
        same(step.blocked[0], wanted)


def test_centres_of_regions(official: Tensors) -> None:
    same(mask_centres_xy(official["c_prompts/region_prompts"]), official["c_prompts/region_points"])


def test_perception_prior(official: Tensors) -> None:
    prior = perception_prior(
        official[f"c_decoder_rect/class_logits_{LAST}"][0],
        official[f"c_decoder_rect/mask_logits_{LAST}"][0],
        official["d_prior_rect/query_pos_feat"][0],
        64,
    )
    close(prior.foreground_score, official["d_prior_rect/foreground_score"][0], atol=6e-4)
    close(prior.weights, official["d_prior_rect/weighted_prob"][0], atol=4e-4)
    close(prior.prior, official["d_prior_rect/pixel_query"][0].flatten(0, 1), atol=2e-4)
    same(prior.owner != torch.arange(len(prior.kept))[:, None], official["d_prior_rect/token_not_owned"][0])
    same(prior.kept, official["d_prior_rect/query_kept"][0])


def _batch(official: Tensors, model: OmgLlava) -> SplicedBatch:
    stage = {name.removeprefix("f_llm/"): tensor for name, tensor in official.items() if name.startswith("f_llm/")}
    images = [official["d_prior/tokens_image0"], official["d_prior/tokens_image1"]]
    placeholders = Placeholders(model.special, images, stage["region_embeddings"], stage["mark_embeddings"])
    batch = splice_batch(stage["input_ids"], stage["attention_mask"], stage["labels"], model.embed, placeholders)
    placeholders.check_all_used()
    return batch


def test_language_model(official: Tensors, model: OmgLlava) -> None:
    batch, valid = _batch(official, model), official["f_llm/new_attention_mask"].bool()
    same(batch.labels, official["f_llm/new_labels"])
    same(batch.attention_mask, valid)
    same(batch.position_ids, official["f_llm/new_position_ids"])
    same(batch.labels == model.special.seg, official["f_llm/seg_position_mask"])
    close(batch.embeds[..., ::4], official["f_llm/inputs_embeds"], atol=2e-4)
    inputs = {"inputs_embeds": batch.embeds, "attention_mask": valid, "position_ids": batch.position_ids}
    states = model.llm.model(**inputs, output_hidden_states=True).hidden_states
    close(states[1][valid][:, ::4], official["f_llm/hidden_1"][valid], atol=2e-4)
    last = model.read(batch.embeds, valid, batch.position_ids).last
    close(last[valid][:, ::4], official["f_llm/hidden_2"][valid], atol=3e-4)
    logits = model.logits(last)
    close(logits[valid][:, ::4], official["f_llm/logits"][valid], atol=7e-4)
    close(text_loss(logits, batch.labels, lambda rows: rows)[None], official["f_llm/loss_text"], atol=2e-5)
    with without_lora(model.llm):
        bare = model.read(batch.embeds, valid, batch.position_ids).last
        close(bare[valid][:, ::4], official["f_llm/last_hidden_without_lora"][valid], atol=2e-4)
        close(model.logits(bare)[valid][:, ::4], official["f_llm/logits_without_lora"][valid], atol=6e-4)


def test_greedy_answer(record: Record, official: Tensors, assistant: Assistant) -> None:
    """Through the cached prefix, as questions are answered."""
    model, ids, image = assistant.model, official["g_generate/input_ids"][0], official["d_prior/tokens_image0"]
    cut = ids.tolist().index(IMAGE) + 1
    none = image[:0]
    start, _ = splice(ids[:cut], ids[:cut], model.embed, Placeholders(model.special, [image], none, none))
    prefix = prefill(model.llm, model.seg_state, start)
    stop = StopRule(assistant.tokenizer, {int(record.sizes["tokens"]["eos"])}, ())
    row = Row(prefix, model.embed(ids[cut:]), Sampling(max_new_tokens=len(official["g_generate/sequences"])), stop)
    [result] = generate(model.llm, model.seg_state, [row], seg_id=model.special.seg, trace=True)
    assert result.ids == official["g_generate/sequences"].tolist()
    close(torch.stack(result.logits), official["g_generate/step_logits"], atol=3e-4)
    close(torch.stack(result.states[1:])[:, ::4], official["g_generate/last_hidden"][-len(result.ids) + 1 :], atol=2e-4)
    close(torch.stack(list(result.seg_states))[:, ::4], official["g_generate/seg_hidden"], atol=5e-5)


@pytest.mark.parametrize(("width", "height"), [(101, 67), (64, 90), (133, 132)])
def test_masks_at_the_picture_s_size(official: Tensors, width: int, height: int) -> None:
    logits, expected = official[f"g_seg/mask_logits_{LAST}"], official[f"g_seg/masks_w{width}_h{height}"]
    found = torch.stack([SquareFrame(width, height, 128).to_original(item[0]) for item in logits])
    assert (found != expected).float().mean() <= 1e-3


@pytest.mark.parametrize(
    ("case", "settings"),
    [
        ("thr0.8", FusionSettings(object_threshold=0.8)),
        ("thr0", FusionSettings()),
        ("no_low_score_filter", FusionSettings(object_threshold=0.8, filter_low_score=False)),
    ],
)
def test_fusion(record: Record, official: Tensors, case: str, settings: FusionSettings) -> None:
    stage = {name.rpartition("/")[2]: tensor for name, tensor in official.items() if name.startswith("h_panoptic_im")}
    things, stuff, most = (
        int(record.sizes["classes"][name]) for name in ("num_things_classes", "num_stuff_classes", "max_per_image")
    )
    settings = FusionSettings(settings.object_threshold, 0.8, settings.filter_low_score, most)
    expected, classes = stage[f"synth_{case}_panoptic_0"], stage["synth_class_logits"]
    size = (expected.shape[0], expected.shape[1])
    masks = F.interpolate(stage["synth_mask_logits"].float()[None], size, mode="bilinear", align_corners=False)[0]
    segments = panoptic_segments(classes, masks.__getitem__, things, settings)
    same(panoptic_map(segments, size, things + stuff), expected)
    found = instances(classes, masks.__getitem__, things, settings)
    close(found.scores, stage[f"synth_{case}_instance_scores_0"], atol=2e-6)
    same(found.labels, stage[f"synth_{case}_instance_labels_0"])
    same(found.boxes_xyxy, stage[f"synth_{case}_instance_boxes_0"])
    same(found.masks.flatten(1).sum(dim=1), stage[f"synth_{case}_instance_areas_0"])


def test_objects_of_two_pieces(official: Tensors) -> None:
    before, after = (official[f"h_panoptic_video/clip{number}_query"][0] for number in (0, 1))
    same(match_queries(before, after), official["h_panoptic_video/match1"])


def test_classes_by_clip_too(official: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ensemble, given the recorded masks and embeddings of what lies under them."""
    stage = {name.rpartition("/")[2]: tensor for name, tensor in official.items() if name.startswith("h_open_vocab/")}
    prototypes = official["class_embeddings"].float()
    head = ClassHead(SegmenterConfig(width=32), prototypes.shape[-1])
    for index, expected in enumerate(stage["ensembled_class_logits"]):
        given = {
            "stride32_masks": stage["clip_mask_logits"][index][:, None],
            "pooled_clip_embeddings": stage["clip_instance_embedding"][index],
        }
        for name, value in given.items():
            monkeypatch.setattr(open_vocabulary, name, lambda *_, value=value: value)
        found = open_vocabulary.ensembled_logits(
            SimpleNamespace(class_head=head),  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            stage["class_logits"][index],
            torch.empty(0),
            prototypes,
            stage["seen"].bool(),
        )
        close(found, expected, atol=1e-3)


def test_video_panoptic_quality(record: Record, official: Tensors) -> None:
    stage = {name: tensor.numpy() for name, tensor in official.items() if name.startswith("h_vpq/")}
    things, stuff = (int(record.sizes["classes"][f"num_{kind}_classes"]) for kind in ("things", "stuff"))
    ids, windows = vpq.PanopticIds(n_classes=things + stuff), (1, 2, 3, 4, 6)
    parts = [vpq.count_video(stage[f"h_vpq/gt_{n}"], stage[f"h_vpq/pred_{n}"], ids, windows) for n in (0, 1)]
    merged = vpq.merge(parts)
    values = vpq.summarize(merged, [index < things for index in range(things + stuff)])
    for k in windows:
        found = merged[k].class_sums(things + stuff)
        np.testing.assert_allclose(found, stage[f"h_vpq/k{k}_iou_tp_fn_fp"], rtol=0, atol=1e-5)
        means = [values[f"{name}@{k}"] for name in ("VPQ", "VPQ_th", "VPQ_st")]
        np.testing.assert_allclose(means, stage[f"h_vpq/k{k}_pq_all_thing_stuff"], rtol=0, atol=1e-6)


def test_mask_losses(record: Record, official: Tensors) -> None:
    stage = {name.rpartition("/")[2]: tensor for name, tensor in official.items() if name.startswith("i_losses/")}
    sizes = record.sizes["loss"]
    config = MaskLossConfig(int(sizes["num_points"]), sizes["oversample_ratio"], sizes["importance_sample_ratio"])
    logits, points = stage[f"pred_mask_logits_{LAST}"][:, 0], stage[f"point_coords_{LAST}"]
    losses = mask_losses(logits[None], stage["gt_masks"], config, points=points[None])
    close(losses.dice, stage["dice_per_prediction"], atol=6e-5)
    close(losses.bce, stage["mask_per_prediction"], atol=3e-4)
    draws = iter([stage[f"rand_{2 * LAST}"], stage[f"rand_{2 * LAST + 1}"]])

    def drawn(n_masks: int, n_points: int) -> torch.Tensor:
        of_call = next(draws)
        assert of_call.shape == (n_masks, n_points, 2)
        return of_call

    chosen = uncertain_points(logits, config, drawn)
    # The order among them is open.
    for own, wanted in zip(chosen.tolist(), points.tolist(), strict=True):
        assert sorted(own) == sorted(wanted)


def test_our_own_record(record: Record, model: OmgLlava) -> None:
    """The stages whose official weights are too many, at minimal width: what they gave where the recorded official
    tensors agreed.
    """
    outputs = {name.removeprefix("outputs/"): value for name, value in record.own.items() if "outputs/" in name}
    found = own_outputs(model, record.own)
    assert found.keys() == outputs.keys()
    for name, expected in outputs.items():
        atol = 1e-3 if "logits" in name else 2e-4
        torch.testing.assert_close(
            found[name], expected, atol=atol, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
