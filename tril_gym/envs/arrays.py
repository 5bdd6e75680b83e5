"""Types of numpy arrays."""

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]  # token ids, indices of examples or rows, lengths
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
