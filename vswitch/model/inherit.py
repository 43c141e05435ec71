"""What each node's settings are once its kind, its group and the defaults have had their say: most specific wins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from .catalogue import Catalogue
from .convert import BAD, Converter
from .lab import Condition
from .problems import Problems, suggestion, where
from .spec import CommonSpec, DependencySpec, GroupSpec, HealthcheckSpec, KindSpec, LabSpec, NodeSpec
from .tree import Mapping, Node, Path, find


class Layer(NamedTuple):
    """One mapping of node settings in the file. `strict`: each of its keys must suit the node's driver."""

    path: Path
    spec: CommonSpec
    mapping: Mapping
    strict: bool

    def driver_keys(self) -> Iterator[str]:
        """The keys that are not the same for every driver."""
        return (key for key in self.mapping.items if key not in self.spec.__struct_fields__)


class Inherited(NamedTuple):
    """A node's settings from all layers. `depends_on` has the path each dependency was written at."""

    kind: str
    driver: str
    settings: dict[str, Any]
    depends_on: dict[str, tuple[Condition, Path]]
    healthcheck: HealthcheckSpec | None
    env: dict[str, str]
    labels: dict[str, str]
    exec: tuple[str, ...]
    ready_timeout: float | None
    mtu: int | None


class Inheritance:
    """Works the layers of one lab file out; mistakes go to `problems`."""

    def __init__(
        self, file: LabSpec, root: Node | None, problems: Problems, catalogue: Catalogue, converter: Converter
    ) -> None:
        self._file = file
        self._root = root
        self._problems = problems
        self._catalogue = catalogue
        self._converter = converter
        self._driver_values: dict[tuple[Path, str], dict[str, Any] | None] = {}
        self._drivers_of_kinds = {name: name for name in catalogue.drivers}

    def nodes(self) -> dict[str, Inherited]:
        """Every node whose kind could be found."""
        for name, spec in self._file.kinds.items():
            self._take_kind(name, spec)
        if self._file.defaults is not None:
            self._check_group(("defaults",), self._file.defaults)
        for name, group in self._file.groups.items():
            self._check_group(("groups", name), group)
        result = {}
        for name, node in self._file.nodes.items():
            inherited = self._node(("nodes", name), node)
            if inherited is not None:
                result[name] = inherited
        return result

    # --- kinds and groups -------------------------------------------------------------------------------------------

    def _take_kind(self, name: str, spec: KindSpec) -> None:
        """Find a kind's driver and check the settings it gives that driver."""
        path: Path = ("kinds", name)
        drivers = self._catalogue.drivers
        driver = spec.driver or (name if name in drivers else None)
        if driver is None:
            self._problems.error(path, f"needs 'driver'{suggestion(name, drivers)}")
        elif driver not in drivers:
            self._problems.unknown((*path, "driver"), "driver", driver, drivers)
        elif name in drivers and driver != name:
            self._problems.error(
                (*path, "driver"), f"{name!r} is a driver itself; a kind over {driver!r} needs another name"
            )
        else:
            self._drivers_of_kinds[name] = driver
            self._settings_for(driver, self._layer(path, spec, strict=True))
            return
        self._drivers_of_kinds.pop(name, None)

    def _check_group(self, path: Path, spec: GroupSpec) -> None:
        """Check what can be said of settings that meet several drivers: some driver must know and accept each."""
        if spec.kind is not None:
            self._check_kind(spec.kind, (*path, "kind"))
        layer = self._layer(path, spec, strict=False)
        for key in layer.driver_keys():
            knowing = self._catalogue.drivers_with(key)
            if not knowing:
                known = {*spec.__struct_fields__, *self._catalogue.all_driver_keys()}
                self._converter.unknown_key(path, key, known)
            elif all(self._quietly(driver, layer, key) for driver in knowing):
                self._value(knowing[0], layer, key)

    def _quietly(self, driver: str, layer: Layer, key: str) -> list[Any]:
        """What `driver` has against a setting."""
        problems = Problems(self._problems.file)
        field = self._catalogue.fields(driver)[key]
        self._converter.into(problems).value(layer.mapping.items[key], field.type, (*layer.path, key))
        return problems.errors

    def _check_kind(self, kind: str, path: Path) -> bool:
        if kind in self._drivers_of_kinds:
            return True
        if kind not in self._file.kinds:
            self._problems.unknown(path, "kind", kind, {*self._drivers_of_kinds, *self._file.kinds})
        return False

    # --- nodes ------------------------------------------------------------------------------------------------------

    def _node(self, path: Path, node: NodeSpec) -> Inherited | None:
        groups = self._file.groups
        group = groups.get(node.group) if node.group is not None else None
        if node.group is not None and group is None:
            self._problems.unknown((*path, "group"), "group", node.group, groups)
        weakest_first: list[tuple[Path, GroupSpec | NodeSpec | None]] = [
            (("defaults",), self._file.defaults),
            (("groups", node.group or ""), group),
            (path, node),
        ]
        said = [(spec.kind, (*at, "kind")) for at, spec in weakest_first if spec is not None and spec.kind is not None]
        kind, kind_path = said[-1] if said else (None, path)
        if kind is None:
            known = suggestion("", self._drivers_of_kinds)
            known_group = node.group is None or group is not None
            if known_group and find(self._root, (*path, "kind")) is None:
                self._problems.error(
                    path, f"has no kind; write 'kind:' here, in its group or in defaults{known}", key=True
                )
            return None
        if not self._check_kind(kind, kind_path):
            return None
        driver = self._drivers_of_kinds[kind]
        layers = [self._layer(at, spec, strict=spec is node) for at, spec in weakest_first if spec is not None]
        if kind in self._file.kinds:
            position = 1 if self._file.defaults is not None else 0
            layers.insert(position, self._layer(("kinds", kind), self._file.kinds[kind], strict=True))
        return self._merge(path, kind, driver, layers)

    def _merge(self, path: Path, kind: str, driver: str, layers: list[Layer]) -> Inherited:
        """Lay `layers` over each other, the weakest first."""
        strongest = {key: layer for layer in layers for key in layer.mapping.items}

        def written(key: str) -> Any:
            layer = strongest.get(key)
            return getattr(layer.spec, key) if layer is not None else None

        command = written("exec")
        dependencies = strongest.get("depends_on")
        return Inherited(
            kind=kind,
            driver=driver,
            settings=self._settings(path, driver, layers),
            depends_on=_dependencies(dependencies, path) if dependencies is not None else {},
            healthcheck=written("healthcheck"),
            env={name: value for layer in layers for name, value in layer.spec.env.items()},
            labels={name: value for layer in layers for name, value in layer.spec.labels.items()},
            exec=(command,) if isinstance(command, str) else tuple(command or ()),
            ready_timeout=written("ready_timeout"),
            mtu=written("mtu"),
        )

    # --- settings of the driver -------------------------------------------------------------------------------------

    def _settings(self, path: Path, driver: str, layers: list[Layer]) -> dict[str, Any]:
        """The driver's settings as written in `layers`, checked one by one and then together."""
        parts = [self._settings_for(driver, layer) for layer in layers]
        merged = {key: value for part in parts if part is not None for key, value in part.items()}
        if None not in parts:
            try:
                msgspec.convert(merged, self._catalogue.drivers[driver])
            except msgspec.ValidationError as error:
                self._problems.error(path, f"as settings of {driver}: {error}")
        return merged

    def _settings_for(self, driver: str, layer: Layer) -> dict[str, Any] | None:
        """What `layer` says to `driver`; None when some of it is wrong, which has been reported."""
        key = (layer.path, driver)
        if key not in self._driver_values:
            self._driver_values[key] = self._read_settings(driver, layer)
        return self._driver_values[key]

    def _read_settings(self, driver: str, layer: Layer) -> dict[str, Any] | None:
        fields = self._catalogue.fields(driver)
        values: dict[str, Any] = {}
        for key in layer.driver_keys():
            if key in fields:
                values[key] = self._value(driver, layer, key)
            elif layer.strict:
                self._refuse_key(driver, layer, key)
                values[key] = BAD
        if any(value is BAD for value in values.values()):
            return None
        return values

    def _value(self, driver: str, layer: Layer, key: str) -> Any:
        field = self._catalogue.fields(driver)[key]
        value = self._converter.value(layer.mapping.items[key], field.type, (*layer.path, key))
        return value if value is BAD else msgspec.to_builtins(value)

    def _refuse_key(self, driver: str, layer: Layer, key: str) -> None:
        path = (*layer.path, key)
        others = self._catalogue.drivers_with(key)
        if others:
            message = f"key {key!r} is a setting of driver {', '.join(sorted(others))}, but this is {driver}"
            self._problems.error(path, message, key=True)
        elif key == "driver":
            message = "a node has a 'kind', not a 'driver'; the name of a driver is a kind as well"
            self._problems.error(path, message, key=True)
        else:
            self._converter.unknown_key(
                layer.path, key, {*layer.spec.__struct_fields__, *self._catalogue.fields(driver)}
            )

    def _layer(self, path: Path, spec: CommonSpec, *, strict: bool) -> Layer:
        node = find(self._root, path)
        assert node is not None, where(path)
        return Layer(path, spec, node if isinstance(node, Mapping) else Mapping(node.mark), strict)


def _dependencies(layer: Layer, node: Path) -> dict[str, tuple[Condition, Path]]:
    """What the node at path `node` waits for, as `layer` says; what many nodes inherit does not hold for itself."""
    written: Any = layer.spec.depends_on or []
    path = (*layer.path, "depends_on")
    if isinstance(written, list):
        found: dict[str, tuple[Condition, Path]] = {
            name: ("ready", (*path, index)) for index, name in enumerate(written)
        }
    else:
        found = {
            name: (value.condition if isinstance(value, DependencySpec) else value, (*path, name))
            for name, value in written.items()
        }
    if layer.path != node:
        found.pop(str(node[-1]), None)
    return found
