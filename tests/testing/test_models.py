"""The weightless models answer what they say they answer."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from pycocotools import mask as coco_mask

from omgbench.contract import (
    Frame,
    Intent,
    MaskPrompt,
    Placement,
    Request,
    Response,
    SeesReferences,
    Status,
)
from omgbench.response_checks import check_response
from omgbench.testing import (
    BlankModel,
    CrashingModel,
    PerfectModel,
    RandomModel,
    ScriptedModel,
    SlowModel,
    WholeImageModel,
    tiny_clip,
)
from omgbench.testing.made_requests import plain_request
from omgbench.testing.models import WeightlessModel, weightless_capabilities
from omgbench.testing.random_answers import random_answer

FRAME = Frame("never read", 640, 480, b"")
INTENTS = list(Intent)
GOLDEN_COUNTS = ["051000000000<", "115000000000005"]


def request(intent: Intent, id_: str = "r", frame: Frame = FRAME) -> Request:
    return replace(plain_request(intent, frame, weightless_capabilities()), id=id_)


def clip_request(intent: Intent) -> Request:
    return replace(request(intent), frames=tiny_clip(3), is_clip=True, prompts=())


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (640, 480)])
@pytest.mark.parametrize("intent", INTENTS)
def test_every_answer_keeps_the_rules(intent: Intent, size: tuple[int, int]) -> None:
    frame = replace(FRAME, width=size[0], height=size[1])
    for model in (BlankModel(), RandomModel(), WholeImageModel()):
        for index in range(25):
            asked = request(intent, str(index), frame)
            assert check_response(asked, model.answer(asked)) is None
        asked = clip_request(intent)
        assert check_response(asked, model.answer(asked)) is None


@pytest.mark.parametrize("intent", INTENTS)
def test_random_answers_depend_on_seed_and_id_alone(intent: Intent) -> None:
    requests = [request(intent, str(index)) for index in range(12)]
    together = list(RandomModel(seed=3).respond(requests))
    alone = [next(RandomModel(seed=3).respond([asked])) for asked in requests]
    assert together == alone
    assert together != list(RandomModel(seed=4).respond(requests))
    assert len({str(replace(answer, id="")) for answer in together}) > 1


def test_a_random_answer_is_the_same_on_every_machine() -> None:
    small = replace(FRAME, width=8, height=6)
    answer = random_answer(request(Intent.GROUNDED_CAPTION, "golden", small), seed=0)
    assert answer.text == "a wooden table and a man"
    assert [mask.rle.counts for mask in answer.masks] == GOLDEN_COUNTS


def test_random_panoptic_fills_every_pixel() -> None:
    for asked in (request(Intent.PANOPTIC), clip_request(Intent.PANOPTIC)):
        panoptic = random_answer(asked).panoptic
        assert panoptic is not None
        assert len(panoptic.segments) == 5
        for index, frame in enumerate(asked.frames):
            rles = [segment.masks[index] for segment in panoptic.segments]
            area = sum(int(coco_mask.area({"size": rle.size, "counts": rle.counts})) for rle in rles if rle)
            assert area == frame.width * frame.height


@pytest.mark.parametrize(
    ("question", "answers"),
    [
        ("Is there a dog in the image?", {"Yes", "No"}),
        ("A dog is there. Please answer yes or no.", {"Yes", "No"}),
        ("What is it?\nA. a dog\nB. a cat\nAnswer with the letter.", {"A", "B"}),
    ],
)
def test_random_chat_answers_what_is_asked_for(question: str, answers: set[str]) -> None:
    given = {random_answer(replace(request(Intent.CHAT, str(index)), text=question)).text for index in range(40)}
    assert given == answers


def test_whole_image_covers_every_pixel() -> None:
    model = WholeImageModel()
    for intent in (Intent.REFER_SEGMENT, Intent.INTERACTIVE):
        (mask,) = model.answer(request(intent)).masks
        assert int(coco_mask.area({"size": mask.rle.size, "counts": mask.rle.counts})) == 640 * 480
    (box,) = model.answer(request(Intent.REFER_BOX)).boxes
    assert box.xyxy == (0.0, 0.0, 640.0, 480.0)
    masks = model.answer(clip_request(Intent.REFER_SEGMENT)).masks
    assert [(mask.frame, mask.track) for mask in masks] == [(0, 1), (1, 1), (2, 1)]


@pytest.mark.parametrize("intent", INTENTS)
def test_blank_says_nothing(intent: Intent) -> None:
    answer = BlankModel().answer(request(intent))
    assert (answer.status, answer.text, answer.masks, answer.boxes, answer.choices) == (Status.EMPTY, "", (), (), ())


def test_whole_image_is_blank_where_no_one_thing_is_asked_for() -> None:
    asked = request(Intent.CHAT)
    assert WholeImageModel().answer(asked) == BlankModel().answer(asked)


def test_perfect_gives_back_what_it_is_told() -> None:
    requests = [request(Intent.CHAT, "a"), request(Intent.CHAT, "b")]
    references = [Response("a", text="right"), Response("other", text="right too")]
    answers = list(PerfectModel().respond_with_references(requests, references))
    assert answers == [references[0], Response("b", text="right too")]
    assert isinstance(PerfectModel(), SeesReferences)
    assert PerfectModel().capabilities().sees_references


def test_perfect_without_references_says_why() -> None:
    (answer,) = PerfectModel().respond([request(Intent.CHAT)])
    assert answer.status is Status.ERROR
    assert "perfect_answer" in (answer.error or "")


def test_scripted_answers_by_id_or_function() -> None:
    requests = [request(Intent.CHAT, "a"), request(Intent.CHAT, "b")]
    told, missing = ScriptedModel({"a": Response("a", text="yes")}).respond(requests)
    assert (told.text, missing.status) == ("yes", Status.MISSING)
    by_function = ScriptedModel(lambda asked: Response(asked.id, text=asked.text))
    assert [answer.text for answer in by_function.respond(requests)] == [requests[0].text] * 2


def test_crashing_raises_after_the_answers_before() -> None:
    requests = [request(Intent.CHAT, id_) for id_ in "abc"]
    answers = CrashingModel(crash_ids="b,c").respond(requests)
    assert next(answers) == random_answer(requests[0])
    with pytest.raises(RuntimeError, match="made crash on b"):
        next(answers)


def test_out_of_memory_is_known_by_its_name_and_can_wait_for_a_large_batch() -> None:
    requests = [request(Intent.CHAT, id_) for id_ in "abc"]
    model = CrashingModel("oom", every=1, above_batch=2)
    with pytest.raises(RuntimeError) as caught:
        list(model.respond(requests))
    assert type(caught.value).__name__ == "OutOfMemoryError"
    assert len(list(model.respond(requests[:2]))) == 2


@pytest.mark.parametrize("how", ["wrong_size", "bad_span"])
def test_crashing_breaks_the_rules(how: str) -> None:
    asked = request(Intent.REFER_SEGMENT)
    (answer,) = CrashingModel(how, every=1).respond([asked])
    problem = check_response(asked, answer)
    assert problem is not None
    assert problem.startswith({"wrong_size": "masks[0]: size", "bad_span": "spans[0]"}[how])


def test_crashing_answers_too_much_or_too_little() -> None:
    asked = [request(Intent.CHAT)]
    ids = {how: [answer.id for answer in CrashingModel(how, every=1).respond(asked)] for how in ODD_HOWS}
    assert ids == {"unknown_id": ["r/unknown"], "duplicate": ["r", "r"], "nothing": []}


ODD_HOWS = ("unknown_id", "duplicate", "nothing")


def test_crashing_can_end_the_process() -> None:
    code = (
        "from omgbench.contract import Intent, Request\nfrom omgbench.testing import CrashingModel\n"
        "list(CrashingModel('exit', every=1).respond([Request('a', Intent.CHAT, ())]))\nprint('still here')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")


def test_every_chooses_about_that_many_by_id() -> None:
    chosen = [CrashingModel(every=10).crashes_on(str(index)) for index in range(2000)]
    assert 140 < sum(chosen) < 260
    assert not any(CrashingModel().crashes_on(str(index)) for index in range(50))


def test_an_unknown_way_to_crash_is_refused() -> None:
    with pytest.raises(ValueError, match="wrong_size"):
        CrashingModel(how="explode")


def test_slow_sleeps_once_per_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    asked = [request(Intent.CHAT, id_) for id_ in "ab"]
    assert list(SlowModel(0.25).respond(asked)) == list(BlankModel().respond(asked))
    assert slept == [0.25]


def test_arguments_stand_in_the_identity() -> None:
    assert RandomModel(seed=7).identity().options == {"seed": "7"}
    assert RandomModel(seed=7).identity() != RandomModel(seed=8).identity()
    crashing = CrashingModel("nothing", crash_ids=["b", "a"], every=3).identity()
    assert crashing.options == {"how": "nothing", "crash_ids": "a,b", "every": "3", "above_batch": "0"}


@pytest.mark.parametrize("model", [BlankModel(), PerfectModel(), RandomModel(), WholeImageModel(), CrashingModel()])
def test_nothing_is_looked_at(model: WeightlessModel) -> None:
    model.load(Placement())
    capabilities = model.capabilities()
    assert not capabilities.reads_images
    assert not capabilities.language_model
    assert capabilities.refusal(request(Intent.PANOPTIC)) is None
    assert capabilities.refusal(clip_request(Intent.REFER_SEGMENT)) is None
    assert model.identity().weights == "none"
    model.close()


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, omgbench.testing\n"
        "heavy = {'numpy', 'pycocotools', 'PIL', 'torch', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import omgbench.testing.models\n"
        "heavy = {'pycocotools', 'PIL', 'torch', 'pydantic', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from omgbench.testing import check_model, check_task\n"
        "assert callable(check_model) and callable(check_task)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_masks_as_prompts_fit_their_frame() -> None:
    for width, height in ((1, 1), (3, 500), (640, 480)):
        frame = replace(FRAME, width=width, height=height)
        asked = plain_request(Intent.INTERACTIVE, frame, replace(weightless_capabilities(), prompt_kinds={"mask"}))
        (prompt,) = asked.prompts
        assert isinstance(prompt, MaskPrompt)
        assert prompt.rle.size == (height, width)
        assert int(coco_mask.area({"size": prompt.rle.size, "counts": prompt.rle.counts})) > 0
