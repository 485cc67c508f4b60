"""nlpcl: continual learning for NLP, as an extension of Avalanche.

A public name is imported on first use, so `import nlpcl` and `nlpcl --help` load no torch; `__init__.pyi` lists them.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
