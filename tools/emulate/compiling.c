// What cuDNN asks of a driver while it compiles: tools/cuda-emulate --compiling adds the rest, which does nothing.

#include <stdio.h>

int cuDriverGetVersion(int *version) {
    *version = 13000;
    return 0;
}
int cuDeviceGetCount(int *count) {
    *count = 1;
    return 0;
}
int cuGetErrorString(int error, const char **text) {
    *text = error ? "an error" : "no error";
    return 0;
}
// A module and its kernel are the image itself.
int cuLibraryLoadData(void **library, const void *image) {
    *library = (void *)image;
    return 0;
}
int cuLibraryGetKernel(void **kernel, void *library, const char *name) {
    *kernel = library;
    fprintf(stderr, "compiled %s\n", name);
    return 0;
}
int cuKernelGetFunction(void **function, void *kernel) {
    *function = kernel;
    return 0;
}
