"""Grey levels of a mask, uint8 H×W: the nucleus, the cytoplasm, and 0 for all else."""

NUCLEUS, CYTOPLASM = 255, 128
