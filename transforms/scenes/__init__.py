"""Aerial scenes with aircraft, drawn from a seed, with exact boxes and masks, in the layouts of the field."""

from transforms.scenes.compose import Scene, SceneObject, render_scene
from transforms.scenes.config import CATEGORIES, SceneConfig
from transforms.scenes.contact import contact_sheet
from transforms.scenes.dataset import Manifest, write_scenes

__all__ = [
    "CATEGORIES",
    "Manifest",
    "Scene",
    "SceneConfig",
    "SceneObject",
    "contact_sheet",
    "render_scene",
    "write_scenes",
]
