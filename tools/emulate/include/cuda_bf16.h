// Half-width numbers are left out: kernels for them are not compiled.
