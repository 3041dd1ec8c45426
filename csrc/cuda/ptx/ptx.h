/* The text of the kernels, compiled by the driver for the device that it finds. */
#ifndef LZPENALTY_CUDA_PTX_H
#define LZPENALTY_CUDA_PTX_H

extern const char cuda_ptx[];

#endif
