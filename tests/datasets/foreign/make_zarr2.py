"""Write a small replay buffer as UMI's and Diffusion Policy's tools do, with zarr 2.

    PYTHON_WITH_ZARR_2 make_zarr2.py FOLDER

Run with zarr 2.18.3, numcodecs 0.13.1, imagecodecs 2026.3.6 on Python 3.11. Numbers in Blosc,
images in JPEG XL without loss, one chunk a frame (``umi.zarr.zip``); ``umi.npz`` holds the values.
"""

import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import zarr
from imagecodecs.numcodecs import Jpegxl, register_codecs
from numcodecs import Blosc

register_codecs(verbose=False)
root = Path(sys.argv[1])
rng = np.random.default_rng(0)
steps, ends = 24, np.array([10, 24])
walk = {k: np.cumsum(rng.normal(0, 0.01, (steps, n)), 0) for k, n in (("eef", 3), ("width", 1))}
values = {f"robot0_{k}": v.astype(np.float32) for k, v in walk.items()}
values["camera0_rgb"] = rng.integers(0, 256, (steps, 16, 16, 3), np.uint8)
store = zarr.ZipStore(root / "umi.zarr.zip", mode="w")
group = zarr.group(store)
for key, array in values.items():
    image = array.ndim == 4
    group.require_group("data").array(
        key,
        array,
        chunks=(1, *array.shape[1:]) if image else array.shape,
        compressor=Jpegxl(level=99, lossless=True) if image else Blosc("lz4", 5, Blosc.NOSHUFFLE),
    )
group.require_group("meta").array("episode_ends", ends, compressor=None)
store.close()
np.savez_compressed(root / "umi.npz", episode_ends=ends, **values)
print(zarr.__version__, *(f"{k} {metadata.version(k)}" for k in ("numcodecs", "imagecodecs")))
