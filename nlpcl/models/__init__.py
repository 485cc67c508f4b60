"""Backbones, heads, gates and what a model is built from.

A public name is imported on first use, so that a net for images loads no transformers; `__init__.pyi` lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
