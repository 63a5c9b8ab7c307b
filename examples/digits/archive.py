"""Pack weights, network and handler for TorchServe: ``python archive.py --weights FILE --model-store DIR``.

The same as ``torch-model-archiver --model-name digits --version 1.0 --model-file model.py --handler handler.py
--serialized-file FILE --export-path DIR --force``, except that ``digits.mar`` appears whole or not at all.
"""

import argparse
import tempfile
from pathlib import Path

from model_archiver.model_archiver_config import ModelArchiverConfig
from model_archiver.model_packaging import generate_model_archive

HERE = Path(__file__).resolve().parent


def archive(weights, model_store):
    """The path of the new ``digits.mar`` in the model store."""
    model_store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=model_store) as folder:
        generate_model_archive(
            ModelArchiverConfig(
                model_name="digits",
                version="1.0",
                model_file=str(HERE / "model.py"),
                handler=str(HERE / "handler.py"),
                serialized_file=str(weights),
                export_path=folder,
            )
        )
        return (Path(folder) / "digits.mar").replace(model_store / "digits.mar")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="the digits.pt that train.py wrote")
    parser.add_argument("--model-store", type=Path, required=True, help="folder for digits.mar")
    arguments = parser.parse_args()
    print(f"wrote {archive(arguments.weights, arguments.model_store)}")


if __name__ == "__main__":
    main()
