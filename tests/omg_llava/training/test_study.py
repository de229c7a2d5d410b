"""The ablation study: every variant under every seed, over the stages of the small model that it names."""

from __future__ import annotations

import pytest

from omg_llava.errors import ModelError
from omg_llava.training.recipe import find_recipe
from omg_llava.training.study import Study, find_study, study_list, study_names


@pytest.fixture(scope="module")
def study() -> Study:
    return find_study("omg_llava_ablations")


def test_names_and_lines() -> None:
    assert set(study_list()) == set(study_names()) == {"omg_llava_ablations"}
    assert all(study_list().values())


def test_every_variant_under_every_seed_seeds_outermost(study: Study) -> None:
    recipes = list(study.recipes())
    assert [(recipe.seed, recipe.name) for recipe in recipes] == [
        (seed, variant.name) for seed in study.seeds for variant in study.variants
    ]
    assert len(study.seeds) >= 3


def test_stages_are_the_small_models_with_steps_of_their_own(study: Study) -> None:
    whole = {stage.name: stage for stage in find_recipe(study.recipe).stages}
    for recipe in study.recipes():
        assert [stage.name for stage in recipe.stages] == [name for name in whole if name in study.steps]
        for stage in recipe.stages:
            assert stage.steps == study.steps[stage.name]
            assert (stage.data, stage.learning_rate, stage.trains) == (
                whole[stage.name].data,
                whole[stage.name].learning_rate,
                whole[stage.name].trains,
            )
        assert recipe.perception_from == "omg_llava_tiny"


def test_each_variant_is_another_model(study: Study) -> None:
    configs = {recipe.name: recipe.model_config() for recipe in study.recipes() if recipe.seed == study.seeds[0]}
    made = [(c.projector, c.seg_token, c.language.family) for c in configs.values()]
    assert len(made) == len(study.variants)
    assert all(one != other for place, one in enumerate(made) for other in made[:place])


def test_an_unknown_study_is_a_mistake() -> None:
    with pytest.raises(ModelError, match="nothing"):
        find_study("nothing")
