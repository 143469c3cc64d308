"""Names of NumPy 1 that RecBole 1.2.1 asks for when it is imported."""

import numpy as np

np.float_, np.complex_, np.unicode_ = np.float64, np.complex128, np.str_
