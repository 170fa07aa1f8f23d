/* The type stream._tarhash.Writer: a pool as a Python object. */
#ifndef STREAM_IMAGE_WRITER_H
#define STREAM_IMAGE_WRITER_H

#include <Python.h>

/* For PyType_FromModuleAndSpec(). The type is final and its instances hold no references
 * but to it, so that the garbage collector need not know them. */
extern PyType_Spec writer_spec;

#endif
