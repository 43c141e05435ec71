"""The lab file's JSON Schema (draft 2020-12), made from the types the loader checks against."""

from __future__ import annotations

from typing import Any

import msgspec.inspect as mi
from msgspec import NODEFAULT

from ..ports.port import PortSpec
from .catalogue import Catalogue
from .convert import describe, type_info
from .spec import TOPOLOGY_KEYS, GroupSpec, KindSpec, LabSpec, NetworkSpec, NodeSpec, PortSettingsSpec
from .units import UNITS

_VARIABLE = {"$ref": "#/$defs/variable"}
_TEXT = {"type": ["string", "number", "boolean"]}  # unquoted, `run: true` is a boolean to YAML
_WITH_DRIVER_KEYS = (KindSpec, GroupSpec, NodeSpec)


def build_schema(catalogue: Catalogue) -> dict[str, Any]:
    """The schema of lab files whose drivers and port types are those of `catalogue`."""
    schema = _Schema(catalogue)
    root = schema.struct(type_info(LabSpec))
    properties = root["properties"]
    topology = {key: properties[key] for key in TOPOLOGY_KEYS}
    properties["topology"] = {
        "type": ["object", "null"],
        "description": "May hold these keys instead of the top level.",
        "properties": topology,
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "vswitch lab file",
        **root,
        "type": "object",
        "patternProperties": {"^x-": {}},
        "anyOf": [{"required": ["nodes"]}, {"required": ["topology"]}],
        "$defs": {
            **schema.definitions,
            "variable": {
                "type": "string",
                "pattern": r"\$\{",
                "description": "A value taken from the environment: ${NAME} or ${NAME:-default}.",
            },
        },
    }


class _Schema:
    """Turns types into schemas; structs become `definitions`, each once."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.definitions: dict[str, Any] = {}
        self._catalogue = catalogue

    def of(self, info: mi.Type, extra: dict[str, Any] | None = None) -> dict[str, Any]:
        """The schema of one type; `extra` is what annotations around it said."""
        extra = extra or {}
        match info:
            case mi.Metadata(type=inner):
                return self.of(inner, {**extra, **(info.extra or {})})
            case mi.UnionType(types=types):
                return _any_of([self.of(kind, extra) for kind in types])
            case mi.StructType(cls=cls):
                name = cls.__name__.removesuffix("Spec")
                if name not in self.definitions:
                    self.definitions[name] = {}  # taken, should the struct contain itself
                    self.definitions[name] = self.struct(info)
                return {"$ref": f"#/$defs/{name}"}
            case mi.DictType(key_type=keys, value_type=values):
                schema: dict[str, Any] = {"type": ["object", "null"], "additionalProperties": self.of(values)}
                names = _key_names(keys)
                return {**schema, "propertyNames": names} if names else schema
            case mi.ListType(item_type=items) | mi.VarTupleType(item_type=items):
                limits = {"minItems": info.min_length, "maxItems": info.max_length}
                kinds = "array" if info.min_length else ["array", "null"]
                return {"type": kinds, "items": self.of(items), **_set(limits)}
            case mi.AnyType():
                return {}
            case mi.NoneType():
                return {"type": "null"}
            case _:
                return self._scalar(info, extra)

    def struct(self, info: mi.Type) -> dict[str, Any]:
        """The schema of a mapping with known keys."""
        assert isinstance(info, mi.StructType)
        properties = {field.encode_name: self._field(field) for field in info.fields}
        if info.cls in _WITH_DRIVER_KEYS:
            properties.update(self._driver_settings())
        if info.cls is NetworkSpec:
            properties["ports"] = self._ports()
        if issubclass(info.cls, PortSpec):
            settings = type_info(PortSettingsSpec)
            assert isinstance(settings, mi.StructType)
            properties.update({field.encode_name: self._field(field) for field in settings.fields})
        if info.tag_field is not None:
            properties = {info.tag_field: {"const": info.tag}, **properties}
        required = [field.encode_name for field in info.fields if field.required]
        if info.tag_field is not None:
            required.insert(0, info.tag_field)
        return {
            "type": "object" if required else ["object", "null"],
            **_set({"description": _first_paragraph(info.cls.__doc__)}),
            "properties": properties,
            **({"required": required} if required else {}),
            "additionalProperties": False,
        }

    def _field(self, field: mi.Field) -> dict[str, Any]:
        schema = self.of(field.type)
        if field.default is NODEFAULT or field.default is None:
            return schema
        return {**schema, "default": field.default}

    def _driver_settings(self) -> dict[str, Any]:
        """The settings of all drivers: which of them suit a node is for the loader to say."""
        schemas: dict[str, list[dict[str, Any]]] = {}
        for driver in self._catalogue.drivers:
            for key, field in self._catalogue.fields(driver).items():
                schemas.setdefault(key, []).append(self._field(field))
        return {key: _any_of(kinds) for key, kinds in schemas.items()}

    def _ports(self) -> dict[str, Any]:
        kinds = [self.of(type_info(spec)) for _, spec in sorted(self._catalogue.port_types.items())]
        ports = {"additionalProperties": _any_of(kinds) if kinds else False}
        return {"type": ["object", "null"], "description": "Ports that face outside the lab.", **ports}

    def _scalar(self, info: mi.Type, extra: dict[str, Any]) -> dict[str, Any]:
        words = describe(info, extra)
        if "unit" in extra:
            pattern = f"^(?:{UNITS[extra['unit']].pattern})$"
            return _any_of([{"type": "string", "pattern": pattern, "description": words}, _VARIABLE])
        match info:
            case mi.StrType() if info.pattern is None:
                sizes = {"minLength": info.min_length, "maxLength": info.max_length}
                return {**_TEXT, **_set(sizes)}
            case mi.StrType():
                return _any_of([{**_TEXT, "pattern": info.pattern, "description": words}, _VARIABLE])
            case mi.BoolType():
                return _any_of([{"type": "boolean"}, _VARIABLE])
            case mi.IntType() | mi.FloatType():
                limits = {
                    "minimum": info.ge,
                    "maximum": info.le,
                    "exclusiveMinimum": info.gt,
                    "exclusiveMaximum": info.lt,
                    "multipleOf": info.multiple_of,
                }
                kind = "integer" if isinstance(info, mi.IntType) else "number"
                return _any_of([{"type": kind, **_set(limits)}, _VARIABLE])
            case mi.LiteralType(values=values):
                return _any_of([{"enum": list(values)}, _VARIABLE])
            case _:
                raise TypeError(f"no schema for {info}")


def _any_of(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    """One schema that any of `schemas` satisfies, flat and without repetition."""
    flat: list[dict[str, Any]] = []
    for schema in schemas:
        for choice in schema["anyOf"] if schema.keys() == {"anyOf"} else [schema]:
            if choice not in flat:
                flat.append(choice)
    return flat[0] if len(flat) == 1 else {"anyOf": flat}


def _set(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _key_names(info: mi.Type) -> dict[str, Any]:
    """The schema of a mapping's keys; empty when any will do."""
    while isinstance(info, mi.Metadata):
        info = info.type
    if isinstance(info, mi.LiteralType):
        return {"enum": list(info.values)}
    return _set({"pattern": info.pattern}) if isinstance(info, mi.StrType) else {}


def _first_paragraph(text: str | None) -> str | None:
    return " ".join(text.split("\n\n")[0].split()) if text else None
