"""Rules for what a model says about itself."""

from __future__ import annotations

from collections.abc import Mapping

from omgbench.contract import Capabilities, Intent, Model, ModelIdentity, SeesReferences


def capabilities_problem(model: Model, capabilities: Capabilities) -> str | None:
    """What is wrong with declared capabilities, on their own or against the model's methods."""
    if not isinstance(capabilities, Capabilities):
        return f"expected Capabilities, found {type(capabilities).__name__}"
    intents = capabilities.intents
    if not intents or not all(isinstance(intent, Intent) for intent in intents):
        return f"intents: expected at least one Intent, found {set(intents) or 'none'}"
    pointing = intents & {Intent.INTERACTIVE, Intent.REGION_CAPTION}
    if pointing and not capabilities.prompt_kinds:
        return f"{', '.join(sorted(pointing))} needs a prompt, but prompt_kinds is empty"
    if (Intent.PANOPTIC in intents) != (capabilities.vocabulary is not None):
        return "vocabulary must be set exactly when panoptic is among the intents"
    if capabilities.max_frames < 1:
        return f"max_frames is {capabilities.max_frames}, at least 1 is needed"
    if capabilities.sees_references != isinstance(model, SeesReferences):
        return "sees_references must be True exactly for models with respond_with_references"
    return None


def identity_problem(identity: ModelIdentity) -> str | None:
    """What keeps an identity from being stored and compared."""
    if not isinstance(identity, ModelIdentity):
        return f"expected a ModelIdentity, found {type(identity).__name__}"
    for name in ("name", "version", "weights"):
        value = getattr(identity, name)
        if not isinstance(value, str) or not value.strip():
            return f"{name}: expected some text, found {value!r}"
    for name in ("templates", "options", "libraries"):
        mapping: Mapping[str, str] = getattr(identity, name)
        wrong = [
            (key, value) for key, value in mapping.items() if not isinstance(key, str) or not isinstance(value, str)
        ]
        if wrong:
            return f"{name}: expected str to str, found {wrong[0]!r}"
    return None
