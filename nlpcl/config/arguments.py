"""A run as it is asked for, in the words of `nlpcl run`: read from texts, and written as a command again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nlpcl.config.presets import PresetFile
from nlpcl.config.resolve import FIELD_OPTIONS, Entries, entries_of, resolve
from nlpcl.config.spec import FIELDS, OWNERS, CompleteSpec, RunSpec
from nlpcl.errors import UsageError
from nlpcl.options import Option, assignment, find_option, parse_options


@dataclass(frozen=True)
class Request:
    """A run as the command line describes it.

    :param fields: texts by field of the spec; only fields with a flag.
    :param assign: the `name=value` of each `--set`.
    :param presets: the file of each `--preset`.
    """

    fields: Mapping[str, str] = field(default_factory=dict)
    assign: tuple[str, ...] = ()
    presets: tuple[Path, ...] = ()

    def spec(self) -> CompleteSpec:
        """Return the complete spec.

        :raises UsageError: a name is unknown, a value wrong, the combination impossible, or a preset does not fit.
        """
        presets = [PresetFile.load(path) for path in self.presets]
        spec = resolve(RunSpec.parse(self.content()), [(preset.when, preset.values) for preset in presets])
        for path, preset in zip(self.presets, presets, strict=True):
            misfit = preset.misfit(spec)
            if misfit:
                raise UsageError(f"--preset {path} does not fit this run: {misfit}.")
        return spec

    def content(self) -> dict[str, Any]:
        """Return the fields of the spec that are asked for, options in the field that holds them.

        :raises UsageError: a name is unknown or given twice, or a value wrong.
        """
        content = {name: FIELDS[name].read(text) for name, text in self.fields.items()}
        if self.assigned():
            holders = self._holders()
            for owner, values in parse_options(self.assign, self.owners()).items():
                if values:
                    content |= {holders[owner]: values} if owner in holders else values
        return content

    def owners(self) -> dict[str, dict[str, Option]]:
        """Return the options that `--set` reaches, by owner: strategy, backbone, benchmark and training, in this order.

        :raises UsageError: a name is unknown.
        """
        training = {name: option for name, option in FIELD_OPTIONS.items() if FIELDS[name].settable}
        return {**{entry.name: entry.options.declared() for entry in self._entries()}, "training": training}

    def field_of(self, name: str) -> str | None:
        """Return the field of the spec that holds an option of `--set`, or None if the option is a field itself.

        :raises UsageError: there is no such option.
        """
        return self._holders().get(find_option(name, self.owners())[0])

    def assigned(self) -> dict[str, str]:
        """Return the text of each `--set` by name.

        :raises UsageError: one is not name=value, or a name comes twice, in `fields` or here.
        """
        texts: dict[str, str] = {}
        for pair in self.assign:
            name, text = assignment(pair)
            if name in texts or name in self.fields:
                raise UsageError(
                    f"{name} is given twice: give it once, and several values for a sweep as --set {name}=a,b."
                )
            texts[name] = text
        return texts

    def argv(self) -> list[str]:
        """Return the arguments of `nlpcl run` that ask for the same."""
        named = [part for name, text in self.fields.items() for part in (FIELDS[name].flags[0], text)]
        assigned = [part for pair in self.assign for part in ("--set", pair)]
        return [*named, *assigned, *(part for path in self.presets for part in ("--preset", str(path)))]

    def _entries(self) -> Entries:
        return entries_of(RunSpec.parse(replace(self, assign=()).content()))

    def _holders(self) -> dict[str, str]:
        """Return the field that holds the options of each owner, by the owner's name."""
        entries = self._entries()
        return {getattr(entries, kind).name: holder for holder, kind in OWNERS.items()}
