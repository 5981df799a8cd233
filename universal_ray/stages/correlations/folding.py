"""Stored sums read in their order: units fold into blocks, blocks and units into groups.

Plain functions over the store.
"""

from collections.abc import Iterator

from universal_ray.maths.moments.accumulate import LayerSums, merge
from universal_ray.planning.items import Block, Item, Layout, calibration_file, layer_file, marker
from universal_ray.storage import checked
from universal_ray.storage.store import Store


def read_sums(store: Store, folder: str, layer: int) -> LayerSums:
    """The sums of one layer; raises DamagedError as all that is checked."""
    return checked.get_tensors(store, layer_file(folder, layer), marker(folder))


def calibrations(store: Store, item: Item) -> dict[str, str]:
    """Checksums of the calibrations that an item's sums are made with, by model; those there are.
    """
    found = {m.short: checked.checksum(store, calibration_file(m)) for m in item.models}
    return {short: checksum for short, checksum in found.items() if checksum}


def groups(store: Store, layout: Layout, item: Item, layer: int) -> Iterator[LayerSums]:
    """Float64 sums of one layer by group of tokens: every block, folded yet or not, then units."""
    for folder, units in layout.folders(item):
        if units and not store.exists(marker(folder)):
            yield merge(read_sums(store, unit, layer) for unit in units)
        else:
            yield merge([read_sums(store, folder, layer)])


def fold(store: Store, item: Item, block: Block) -> None:
    """Fold the units of a block into one float64 file per layer; verify it; drop the units."""
    folder = item.block_folder(block)
    units = [item.unit_folder(unit) for unit in block.units]
    if checked.receipts(store, marker(folder)):  # a fold that was cut short as it dropped its units
        drop(store, units)
        return
    receipts, n = [], 0.0
    for layer in range(item.layers):
        sums = merge(read_sums(store, unit, layer) for unit in units)
        receipts.append(store.put_tensors(layer_file(folder, layer), sums))
        if not store.verify(receipts[-1]):
            receipts[-1] = store.put_tensors(layer_file(folder, layer), sums)
        n = float(sums["n"])
    checked.finish(
        store,
        marker(folder),
        receipts,
        units=[unit.name for unit in block.units],
        n=n,
        of=item.of(block.units),
        calibrations=checked.told(store, marker(units[0])).get("calibrations"),
    )
    drop(store, units)


def drop(store: Store, folders: list[str]) -> None:
    """Delete folders of sums, their markers first."""
    for folder in folders:
        store.delete(marker(folder))
        for path in store.list(folder):
            store.delete(path)
