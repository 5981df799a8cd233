"""Stored sums read in their order: units fold into blocks, blocks and units into groups.

Plain functions over the store.
"""

from collections.abc import Iterator

import torch

from universal_ray.errors import DamagedError
from universal_ray.items import Block, Item, Layout, layer_file, marker
from universal_ray.moments import LayerSums, merge
from universal_ray.store import Receipt, Store


def read_checked(store: Store, folder: str, path: str) -> dict[str, torch.Tensor]:
    """A file of tensors, checked against its receipt in the folder's marker.

    Raises DamagedError where they are not what was written; the marker goes, so that the next run
    makes them anew.
    """
    receipts = store.get_json(marker(folder))["files"]
    receipt = next(Receipt(**entry) for entry in receipts if entry["path"] == path)
    try:
        return store.get_tensors(path, receipt)
    except DamagedError:
        store.delete(marker(folder))
        raise


def read_sums(store: Store, folder: str, layer: int) -> LayerSums:
    """The sums of one layer."""
    return read_checked(store, folder, layer_file(folder, layer))


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
    if store.exists(marker(folder)):  # a fold that was cut short as it dropped its units
        drop(store, units)
        return
    receipts, n = [], 0.0
    for layer in range(item.layers):
        sums = merge(read_sums(store, unit, layer) for unit in units)
        receipts.append(store.put_tensors(layer_file(folder, layer), sums))
        if not store.verify(receipts[-1]):
            receipts[-1] = store.put_tensors(layer_file(folder, layer), sums)
        n = float(sums["n"])
    content = {"units": [unit.name for unit in block.units], "n": n, "of": item.of(block.units)}
    store.finish(marker(folder), {**content, "files": [vars(receipt) for receipt in receipts]})
    drop(store, units)


def drop(store: Store, folders: list[str]) -> None:
    """Delete folders of sums, their markers first."""
    for folder in folders:
        store.delete(marker(folder))
        for path in store.list(folder):
            store.delete(path)
