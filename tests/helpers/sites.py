"""Check that what a backbone says of its layers is so."""

from __future__ import annotations

from typing import Any

import torch

from nlpcl.models.base import Site


def check_sites(sites: list[Site], backbone: Any, x: torch.Tensor) -> None:
    """Each site's layer is a parameter tensor of the stated shape, fed by what the site says, and its gate acts."""
    by_name = {site.name: site for site in sites}
    assert len(by_name) == len(sites)
    for site in sites:
        weight = site.module.weight
        assert isinstance(weight, torch.Tensor)
        assert weight.shape[0] == site.repeat * site.width
        columns = sum(n if name is None else n * by_name[name].width for name, n in site.inputs)
        assert weight.shape[1] == columns
        seen: list[torch.Size] = []
        handle = site.activation.register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out.shape))
        backbone.features(x, 0)
        handle.remove()
        assert seen[0][site.axis] == site.width
