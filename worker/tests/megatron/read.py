"""Opens a shard with megatron-core's IndexedDataset and prints what it holds as one JSON object.

Usage: read.py PREFIX. The file that reads is Megatron's, unmodified. Its package imports PyTorch and Transformer Engine on the way to it,
neither of which reading needs: the packages' __init__ files are skipped, and where PyTorch is not installed the one class that the
reader inherits from (torch.utils.data.Dataset, an interface) is replaced by object.
"""

import importlib.util
import json
import os
import sys
import types


def package(name, path):
    module = types.ModuleType(name)
    module.__path__ = [path]
    sys.modules[name] = module
    return module


def indexed_dataset():
    root = importlib.util.find_spec("megatron.core").submodule_search_locations[0]
    for name in [name for name in sys.modules if name.split(".")[0] == "megatron"]:
        del sys.modules[name]
    package("megatron", os.path.dirname(root))
    package("megatron.core", root)
    package("megatron.core.datasets", os.path.join(root, "datasets"))
    utils = types.ModuleType("megatron.core.utils")
    utils.log_single_rank = lambda logger, level, message, *args: logger.log(level, message, *args)
    sys.modules["megatron.core.utils"] = utils
    try:
        import torch  # noqa: F401
    except ImportError:
        torch = types.ModuleType("torch")
        torch.Tensor = object
        torch.utils = types.ModuleType("torch.utils")
        torch.utils.data = types.ModuleType("torch.utils.data")
        torch.utils.data.Dataset = object
        sys.modules.update({"torch": torch, "torch.utils": torch.utils, "torch.utils.data": torch.utils.data})
    import megatron.core.datasets.indexed_dataset as module

    return module


def main():
    module = indexed_dataset()
    dataset = module.IndexedDataset(sys.argv[1])
    boundaries = [int(boundary) for boundary in dataset.document_indices]
    documents = [
        [[int(token) for token in dataset[sequence]] for sequence in range(first, last)]
        for first, last in zip(boundaries, boundaries[1:])
    ]
    json.dump({"dtype": dataset.index.dtype.__name__, "sequences": len(dataset), "documents": documents}, sys.stdout)


main()
