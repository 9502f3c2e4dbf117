"""Aerial scenes with aircraft, drawn from a seed: pictures, exact boxes and masks, in the layouts of the field."""

from transforms.scenes.config import CATEGORIES, SceneConfig
from transforms.scenes.compose import Scene, SceneObject, render_scene
from transforms.scenes.contact import contact_sheet

__all__ = [
    "CATEGORIES",
    "Scene",
    "SceneConfig",
    "SceneObject",
    "contact_sheet",
    "render_scene",
]
