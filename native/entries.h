/* The type stream._tarhash.Entries: the metadata of one layer as a Python object. */
#ifndef STREAM_IMAGE_ENTRIES_H
#define STREAM_IMAGE_ENTRIES_H

#include <Python.h>

#include "records.h"

/* For PyType_FromModuleAndSpec(). The type is final and its instances hold no references
 * but to it, so that the garbage collector need not know them. */
extern PyType_Spec entries_spec;

/* Claim an instance of this type, which the caller holds a reference to, and return its
 * records: they do not change until entries_return(), and may be read without the GIL, by
 * several callers at once. Returns NULL with a RuntimeError set if the instance is being
 * changed. */
const struct records *entries_borrow(PyObject *entries);

/* End entries_borrow(). Does not touch the exception that may be set. */
void entries_return(PyObject *entries);

#endif
