// Too old for anything that asks.
#define CUDA_VERSION 0
