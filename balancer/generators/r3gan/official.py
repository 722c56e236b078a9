"""Reader of weights under the reference's parameter names."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from balancer.errors import InputError
from balancer.files import read_json
from balancer.generators.r3gan.networks import Discriminator, Generator


def load_official(folder: Path) -> tuple[Generator, Discriminator]:
    """G and D from `config.json` (constructor arguments under "G" and "D"), `G.safetensors` and `D.safetensors`.

    Names and shapes must agree exactly; InputError when they do not, or when a file is missing or damaged.
    """
    folder = Path(folder)
    try:
        config = read_json(folder / "config.json")
        G, D = Generator(**config["G"]), Discriminator(**config["D"])
        for name, network in (("G", G), ("D", D)):
            network.load_state_dict(load_file(folder / f"{name}.safetensors"))
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename or folder} does not exist; R3GAN weights are a folder with config.json, "
            "G.safetensors and D.safetensors."
        ) from None
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / 'config.json'} does not describe R3GAN's networks ({error}).") from None
    except (RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"The weights in {folder} do not fit its config.json ({reason}).") from None
    return G, D
