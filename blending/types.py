"""Array types, so that signatures can say what they hold."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
ItemArray = NDArray[np.int32]
BoolArray = NDArray[np.bool_]
