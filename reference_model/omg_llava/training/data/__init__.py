"""Training data in the official files of each data set.

`FAMILIES` names them; a module is imported when a recipe asks for it. `omg_llava.training` alone, of all the reference
model, may use omgbench's readers: official files are read in one way in evaluation and in training.
"""

from __future__ import annotations

from importlib import import_module

from omg_llava.training.samples import Family

FAMILIES = {
    "llava": "llava:LlavaConversations",
    "refer": "refer:ReferringSegmentation",
    "grandf_gcg": "grounded:GranDf",
    "openpsg_gcg": "grounded:OpenPsg",
    "flickr_gcg": "grounded:FlickrGcg",
    "refcocog_gcg": "grounded:RefCocoGcg",
    "ade20k": "semantic:Ade20k",
    "coco_stuff": "semantic:CocoStuff",
    "osprey_detailed": "osprey:OspreyDetailed",
    "osprey_conversation": "osprey:OspreyConversation",
    "mdvp": "points:MdvpPoints",
    "multi_point": "points:MultiPointCaption",
}
"""Module and class by name; "panoptic" belongs to perception training and has samples of another kind."""


def load_family(name: str) -> type[Family]:
    """The class of a family."""
    module, _, attribute = FAMILIES[name].partition(":")
    family: type[Family] = getattr(import_module(f"{__name__}.{module}"), attribute)
    return family
